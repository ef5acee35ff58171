"""The whole of p2pdist on one machine: an origin registry, an image, a tracker, agents, and clients that pull."""
