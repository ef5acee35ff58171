"""The fault matrix: what a container client sees of a pull while something between it and its image is broken.

A *cell* is a client, a fault, where it is and when it strikes (`cells`). Faults are played by proxies of our own: one
that speaks HTTP in front of the registry (`origin`), and one of bare TCP in front of the tracker and of other agents
(`tcp`). What each cell should come to is written down (`expected`), run (`bench`) with the real clients (`pullers`),
and held against it. All of it: `python -m tests.system.faults`; some of it is a test (`test_faults.py`).
"""
