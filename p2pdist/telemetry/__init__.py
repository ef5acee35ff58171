"""What operators see: logging and metrics. Knows nothing of the parts that report through it."""
