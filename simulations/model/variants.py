"""Rules that aren't the code's (yet): each a name for `--variant`, so that its figures can be had again.

A variant that the code adopts is deleted here. README.md says what each of them gave.
"""

from enum import Enum


class Variant(Enum):
    """What may be changed."""

    PACED_DEALS = "paced-deals"
    """A deal is on the wire until its last byte has left the host, not until the kernel has it."""
