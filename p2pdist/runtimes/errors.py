"""What can stand in the way of changing, or undoing, a runtime's configuration."""

from p2pdist.core.errors import P2PDistError


class MirrorError(P2PDistError):
    """A runtime's configuration can't be changed; nothing has been."""


class NotUnderstood(MirrorError):
    """A file that isn't what its runtime reads, so that nobody can say what a change of it would do."""


class EditedMeanwhile(MirrorError):
    """A file was changed by somebody else since we changed it; what he wrote isn't ours to throw away."""
