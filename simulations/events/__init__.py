"""What event logs tell of a fleet: who fed whom and when, and where the time went. For emulations and for real ones.

- reading: lines of one or many logs, in the order of time, with names in the place of ids
- flows: who got how much from whom, when, and when nobody came (pure)
- report, plot: the same for people
- command: `python -m simulations events FILE… [--plot OUT.png]`
"""
