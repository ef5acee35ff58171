"""What strangers' bytes may do: parse, or be refused with an error of ours. Nothing else.

`targets.py` says that of each parser; tests/unit/test_fuzz_targets.py tries it with hypothesis in every run, and
`python -m tests.fuzz TARGET [libFuzzer options]` with a fuzzer that is guided by coverage (`pip install atheris`; it
isn't needed for anything else). For ten minutes of all of them together:

    python -m tests.fuzz all -max_total_time=600
"""
