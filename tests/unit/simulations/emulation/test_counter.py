"""The counting point between a client and an origin, and the tally that it keeps."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path

import pytest

from simulations.emulation.counter import LISTENING
from simulations.emulation.tally import Sent, Tally, read_tally
from simulations.processes import poll_until
from tests.unit.simulations.emulation.servers import Blobs, serving

BLOB = f"/v2/library/app/blobs/sha256:{'a' * 64}"
MANIFEST = "/v2/library/app/manifests/1"
BODY = os.urandom(3_000_000)


@pytest.fixture
def blobs() -> Blobs:
    return Blobs({BLOB: BODY, MANIFEST: b"{}"})


@pytest.fixture
def tally(tmp_path: Path) -> Path:
    return tmp_path / "tally"


@pytest.fixture
def counter(blobs: Blobs, tally: Path) -> Iterator[HTTPConnection]:
    """A client's connection to a counting process in front of the server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(blobs) as (host, origin_port):
        argv = [sys.executable, "-m", "simulations.emulation.counter", f"{host}:{port}", f"{host}:{origin_port}", tally]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[4]) as process:
            assert process.stdout is not None
            assert LISTENING in process.stdout.readline().decode()
            try:
                with closing(HTTPConnection(host, port, timeout=10)) as connection:
                    yield connection
            finally:
                process.kill()


def get(connection: HTTPConnection, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    connection.request(method, path, headers=headers)
    with connection.getresponse() as response:
        return response.status, response.read()


def wait_for(tally: Path, sent: Sent) -> None:
    """The last part of a body is counted just after it was sent."""
    poll_until(lambda: read_tally(tally) == sent, f"the tally says {sent}", 5)


def test_bodies_of_blobs_are_counted_and_passed_on_whole(counter: HTTPConnection, tally: Path, blobs: Blobs) -> None:
    assert get(counter, MANIFEST) == (200, b"{}")
    assert get(counter, BLOB) == (200, BODY)
    assert get(counter, BLOB, "HEAD") == (200, b"")
    assert get(counter, BLOB, Range="bytes=2000000-") == (206, BODY[2_000_000:])
    wait_for(tally, Sent(4_000_000, 3, 1))
    assert blobs.connections == 1


def test_a_body_that_breaks_off_counts_as_far_as_it_came(counter: HTTPConnection, tally: Path, blobs: Blobs) -> None:
    blobs.cuts[BLOB] = 1_000_000
    with pytest.raises(IncompleteRead):
        get(counter, BLOB)
    assert read_tally(tally).blob_bytes == 1_000_000
    counter.close()
    assert get(counter, BLOB) == (200, BODY)
    wait_for(tally, Sent(4_000_000, 2, 0))


def test_errors_pass_and_count_as_requests_only(counter: HTTPConnection, tally: Path) -> None:
    assert get(counter, BLOB.replace("a" * 64, "b" * 64)) == (404, b"sorry!")
    assert read_tally(tally) == Sent(0, 1, 0)


def test_writing_is_refused(counter: HTTPConnection, tally: Path) -> None:
    with pytest.raises(ConnectionError):
        get(counter, BLOB, "DELETE")
    assert read_tally(tally).requests == 0


def test_a_tally_outlives_who_counts(tally: Path) -> None:
    assert read_tally(tally) == Sent(0, 0, 0)
    with Tally(tally) as first:
        first.add(blob_bytes=10, blob_requests=1)
        first.add(other_requests=2)
    with Tally(tally) as second:
        second.add(blob_bytes=5)
    assert read_tally(tally) == Sent(15, 1, 2)
    assert read_tally(tally) - Sent(5, 1, 0) == Sent(10, 0, 2)
    assert read_tally(tally).requests == 3
