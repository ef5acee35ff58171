"""What each cell should come to, and why. Pure.

The rule: a pull succeeds wherever somebody can still give the right bytes and the client can still be served, at most
five seconds later than without the fault. What a client does by itself, whoever serves it, is taken from measurements
(containerd 1.6, dockerd 20.10, podman 4.3, skopeo 1.9, buildah 1.28).
"""

from tests.system.faults.cells import Cell, Client, Fault, Outcome, When, Where

SLOWEST_RECOVERY_SECONDS = 5.0
# Before it begins a layer anew, dockerd waits: 5 s the first time, 10 s the second.
_DOCKERD_ONCE_SECONDS = 6.0
_DOCKERD_TWICE_SECONDS = 17.0
# Who takes an image from one source, and doesn't begin anew when that breaks off. The agent is that source, and dead.
_GIVES_UP_AT = {
    When.START: (Client.SKOPEO,),
    When.MIDDLE: (Client.SKOPEO, Client.PODMAN, Client.BUILDAH),
}


def expected(cell: Cell) -> Outcome:
    """The outcome that the matrix demands."""
    if _gives_wrong_bytes(cell) and cell.client is not Client.DOCKERD:
        return Outcome.FAILED
    if cell.where is Where.AGENT and cell.client in _GIVES_UP_AT.get(cell.when, ()):
        return Outcome.FAILED
    return Outcome.PULLED


def slowest_seconds(cell: Cell) -> float:
    """By how much longer the pull may take than without the fault."""
    if cell.client is Client.DOCKERD and _gives_wrong_bytes(cell):
        return _DOCKERD_TWICE_SECONDS
    if cell.client is Client.DOCKERD and cell.where is Where.AGENT:
        return _DOCKERD_ONCE_SECONDS
    return SLOWEST_RECOVERY_SECONDS


def _gives_wrong_bytes(cell: Cell) -> bool:
    """Whether the origin gives a layer whose bytes were sent on before anybody could know that they are wrong.

    A wrong length that shows in the header is refused before that. The pull fails for those who don't begin anew.
    """
    if cell.where is not Where.ORIGIN or cell.when is When.HEADERS:
        return False
    return cell.fault is Fault.WRONG_BYTES or (cell.fault is Fault.WRONG_LENGTH and cell.when is When.MIDDLE)
