"""What to raise when several tasks failed at once: a nursery raises a group, a person wants one sentence."""

from collections.abc import Iterator

from p2pdist.core.errors import P2PDistError


def most_telling(
    group: BaseExceptionGroup[BaseException], preferred: type[P2PDistError] = P2PDistError
) -> BaseException:
    """One of the errors in `group`, a `preferred` one if there is; the group itself if there is a bug in it."""
    leaves = list(_leaves(group))
    if not all(isinstance(leaf, P2PDistError) for leaf in leaves):
        return group
    return next((leaf for leaf in leaves if isinstance(leaf, preferred)), leaves[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
