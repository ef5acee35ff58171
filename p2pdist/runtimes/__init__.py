"""The container runtimes of a host: how each is told to ask the agent first, and how that is undone exactly.

One module a runtime says which files it wants changed (`plan`) and what its configuration says now (`reading`);
neither writes. `ledger` writes, remembers what was there, and gives it back byte for byte. Knows nothing of agents and
trackers.
"""
