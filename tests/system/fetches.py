"""What a container daemon asks of a shim, asked by the test itself: every byte is compared, every time measured."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from typing import TypeVar

from tests.system.daemons import Agent
from tests.system.fleet import UPSTREAM
from tests.system.images import INDEX_TYPE, MANIFEST_TYPE, Content, Image

_PART_BYTES = 256 * 1024
_PARALLEL_BLOBS = 4
_START_SECONDS = 10

T = TypeVar("T")


@dataclass(frozen=True)
class Fetched:
    """What came of a GET of one blob, cut short or not; times are from the request on."""

    status: int
    size_bytes: int
    sha256: str
    first_byte_seconds: float
    seconds: float

    def is_whole(self, blob: Content) -> bool:
        return self.status == 200 and self.size_bytes == blob.size_bytes and self.sha256 == blob.hex


def fetch_blob(
    agent: Agent, repository: str, blob: Content, *, on_bytes: Callable[[int], None] | None = None
) -> Fetched:
    """GET a blob through the agent's shim; an answer that ends early is no error here."""
    hasher, size, first = hashlib.sha256(), 0, 0.0
    connection = agent.shim()
    started = time.monotonic()
    status = 0
    try:
        connection.request("GET", f"/v2/{repository}/blobs/{blob.digest}?ns={UPSTREAM}")
        with connection.getresponse() as response:
            status = response.status
            while part := response.read1(_PART_BYTES):
                first = first or time.monotonic() - started
                hasher.update(part)
                size += len(part)
                if on_bytes:
                    on_bytes(size)
    except (OSError, HTTPException):
        return Fetched(status, size, hasher.hexdigest(), first, time.monotonic() - started)
    finally:
        connection.close()
    return Fetched(status, size, hasher.hexdigest(), first, time.monotonic() - started)


def get(agent: Agent, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body of one request to the shim."""
    connection = agent.shim()
    try:
        connection.request(method, path, headers=headers)
        with connection.getresponse() as response:
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def get_manifest(agent: Agent, repository: str, reference: str) -> bytes:
    """The manifest's bytes, which must be answered well."""
    accept = f"{INDEX_TYPE}, {MANIFEST_TYPE}"
    status, _, body = get(agent, f"/v2/{repository}/manifests/{reference}?ns={UPSTREAM}", Accept=accept)
    assert status == 200, f"{agent.name}: {status} {body[:300]!r}\n{agent.log_tail()}"
    return body


@dataclass(frozen=True)
class Pulled:
    """A whole image on one host; `first_byte_seconds` is that of the layer that was quickest to begin."""

    first_byte_seconds: float
    seconds: float


def pull(agent: Agent, repository: str, reference: str, image: Image) -> Pulled:
    """Pull an image as a daemon does, several blobs at once; every byte must be right."""
    started = time.monotonic()
    assert get_manifest(agent, repository, reference) == image.manifest.data
    blobs = list({blob.digest: blob for blob in image.blobs}.values())
    with ThreadPoolExecutor(_PARALLEL_BLOBS) as pool:
        fetched = list(pool.map(lambda blob: fetch_blob(agent, repository, blob), blobs))
    for blob, one in zip(blobs, fetched, strict=True):
        assert one.is_whole(blob), f"{agent.name}: {blob.digest} ({blob.size_bytes}): {one}\n{agent.log_tail()}"
    return Pulled(min(one.first_byte_seconds for one in fetched), time.monotonic() - started)


def at_once(actions: Sequence[Callable[[], T]]) -> list[T]:
    """The results of all `actions`, started at the same instant, each in a thread."""
    barrier = threading.Barrier(len(actions))

    def act(action: Callable[[], T]) -> T:
        barrier.wait(_START_SECONDS)
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        return [future.result() for future in [pool.submit(act, action) for action in actions]]


def pull_at_once(agents: Sequence[Agent], repository: str, reference: str, image: Image) -> list[Pulled]:
    """Every agent pulls the image, all beginning at the same instant."""
    return at_once([partial(pull, agent, repository, reference, image) for agent in agents])


@contextmanager
def under_way(actions: Sequence[Callable[[], T]]) -> Iterator[list[Future[T]]]:
    """The same, running while the block does what it wants; waits for them at its end."""
    with ThreadPoolExecutor(len(actions)) as pool:
        yield [pool.submit(action) for action in actions]
