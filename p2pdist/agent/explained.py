"""What `GET /v1/explain?digest=PREFIX` answers, as types; JSON on the wire.

One `Explanation`, with status 200, for a blob that was pulled lately, or is held, or both. 404 with an OCI error body
for one that is neither, 400 for a prefix that several blobs have. Times that end in `at_seconds` count from the moment
when the blob was wanted; those that end in `_at` are Unix time.
"""

from typing import Literal

from msgspec import Struct


class Source(Struct, frozen=True, kw_only=True):
    """Bytes that were new, and who gave them.

    `by`: "deal" (the tracker), "relay" (another member of a relay), "swarm" or "origin". `node` is a node's id, a swarm
    peer's address where no node is known by it, or empty: an origin, or peers of a swarm that weren't told apart.
    """

    by: Literal["deal", "relay", "swarm", "origin"]
    node: str
    name: str
    bytes: int


class Wait(Struct, frozen=True, kw_only=True):
    """A time in which nothing came, and what was waited for."""

    at_seconds: float
    seconds: float
    what: str


class Step(Struct, frozen=True, kw_only=True):
    """Something that was said or decided: the tracker's answer, pieces that were asked for, a rescue."""

    at_seconds: float
    what: str


class PullAccount(Struct, frozen=True, kw_only=True):
    """The account of one pull.

    `waits`: all time before the first byte and after the last one, and between them every gap of more than
    `gap_seconds`; `waits_left_out` says how many later ones aren't told. `overdue_pieces`: asked for again, because
    they should have come. `taken_over`: spans that this host handed to others for a child that was lost. `sent_bytes`:
    passed on in relays until now.
    """

    wanted_at: float
    state: Literal["running", "held", "failed", "abandoned"]
    upstream: str
    repository: str
    size_bytes: int | None
    received_bytes: int
    private: bool
    seconds: float
    first_byte_seconds: float | None
    last_byte_seconds: float | None
    commit_seconds: float | None
    sources: list[Source]
    waits: list[Wait]
    waits_left_out: int
    gap_seconds: float
    steps: list[Step]
    steps_left_out: int
    overdue_pieces: int
    redundant_bytes: int
    taken_over: int
    sent_bytes: int
    error: str | None = None


class Held(Struct, frozen=True, kw_only=True):
    """What the store knows of a blob that it holds; `written_at` is when its last bytes came."""

    size_bytes: int
    upstream: str
    repository: str
    private: bool
    written_at: float | None


class Explanation(Struct, frozen=True, kw_only=True):
    """One blob on one host; `pull` is None when it wasn't pulled lately, `held` when the store hasn't got it."""

    digest: str
    node_id: str
    name: str
    pull: PullAccount | None
    held: Held | None
