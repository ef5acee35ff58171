"""Rendezvous hashing (Thaler and Ravishankar 1998): every agent finds the same home tracker without asking."""

import hashlib
from collections.abc import Sequence


def ranked(key: str, nodes: Sequence[str]) -> list[str]:
    """`nodes`, the best home of `key` first; removing a node moves only the keys that it was the home of."""
    return sorted(nodes, key=lambda node: (hashlib.sha256(f"{node}\0{key}".encode()).digest(), node), reverse=True)
