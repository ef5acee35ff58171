"""Emulation: the real daemons on this machine, each host a network namespace behind shaped links.

`scenario` says what is emulated, `bound` what physics allows, `run` does it, `figures` and `report` say how it went.
"""
