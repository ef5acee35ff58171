"""Value types and arithmetic that everything else is written in: standard library only, no I/O."""
