"""p2pdist distributes container image layers peer to peer."""

__version__ = "0.1.0"
