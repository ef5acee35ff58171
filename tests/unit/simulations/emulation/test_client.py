"""The client of one host, against a server on the loopback."""

import hashlib
import json
import os
import threading
import time
from typing import Any, Literal

import pytest

from p2pdist.core.digest import Digest
from p2pdist.demo.layout import LAYER_TAR
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.manifest import OCI_MANIFEST
from simulations.emulation import client
from simulations.emulation.client import Puller, PullFailed, Wanted
from tests.unit.simulations.emulation.servers import Blobs, serving

BODIES = [os.urandom(size) for size in (700_000, 1, 300_000)]
MANIFEST = json.dumps({"layers": 3}).encode()


class Here:
    """Stands for a host: clients stay where they are."""

    name = "host-1"

    def enter(self) -> None:
        """This is the place."""


def descriptor(body: bytes, media_type: str = LAYER_TAR) -> Descriptor:
    return Descriptor(media_type, Digest("sha256", hashlib.sha256(body).hexdigest()), len(body))


@pytest.fixture
def blobs() -> Blobs:
    return Blobs({"/manifest": MANIFEST, **{f"/blob/{number}": body for number, body in enumerate(BODIES)}})


def puller(
    address: tuple[str, int],
    *,
    parallel: int = 2,
    check: Literal["streaming", "afterwards"] = "streaming",
    patient: bool = False,
) -> Puller:
    base = f"http://{address[0]}:{address[1]}"
    wanted = Wanted(
        (f"{base}/manifest", descriptor(MANIFEST, OCI_MANIFEST)),
        [(f"{base}/blob/{number}", descriptor(body)) for number, body in enumerate(BODIES)],
    )
    here: Any = Here()
    return Puller(here, wanted, parallel, check, patient)


@pytest.mark.parametrize("parallel", [1, 2, 8])
@pytest.mark.parametrize("check", ["streaming", "afterwards"])
def test_everything_comes_and_is_checked(
    blobs: Blobs, parallel: int, check: Literal["streaming", "afterwards"]
) -> None:
    with serving(blobs) as address:
        one = puller(address, parallel=parallel, check=check)
        start = time.monotonic() + 0.05
        one.run(start)
    one.verify()
    pull = one.pull
    assert pull.error is None
    assert pull.started_at is not None
    assert pull.finished_at is not None
    assert start <= pull.started_at <= pull.finished_at
    assert pull.received_bytes == sum(map(len, BODIES))
    for blob in pull.blobs:
        assert None not in (blob.asked_at, blob.first_byte_at, blob.finished_at)
    assert blobs.ranges[0] == ("/manifest", None)
    assert blobs.connections == min(parallel, len(BODIES))


def test_an_answer_that_breaks_off_is_resumed(blobs: Blobs) -> None:
    blobs.cuts["/blob/0"] = 123_456
    blobs.refusals["/blob/2"] = 503
    with serving(blobs) as address:
        one = puller(address)
        one.run(0)
    one.verify()
    assert one.pull.error is None
    assert one.pull.resumed == 2
    assert ("/blob/0", "bytes=123456-") in blobs.ranges


def test_what_never_comes_is_an_error(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ATTEMPTS", 2)
    del blobs.bodies["/blob/1"]
    with serving(blobs) as address:
        one = puller(address)
        one.run(0)
    assert one.pull.finished_at is None
    assert one.pull.error is not None
    assert "gave up after 2 attempts" in one.pull.error
    assert "answered with 404" in one.pull.error


def test_wrong_bytes_and_a_wrong_manifest_are_found(blobs: Blobs) -> None:
    blobs.bodies["/blob/1"] = b"!"
    with serving(blobs) as address:
        one = puller(address)
        one.run(0)
        with pytest.raises(PullFailed, match=r"host-1: the bytes for sha256:.* have the sha256"):
            one.verify()
        blobs.bodies["/manifest"] = b"{}"
        other = puller(address)
        other.run(0)
    assert other.pull.error is not None
    assert "not the manifest" in other.pull.error


def test_a_patient_client_asks_until_it_is_cancelled(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ATTEMPTS", 1)
    del blobs.bodies["/blob/1"]
    with serving(blobs) as address:
        one = puller(address, patient=True)
        running = threading.Thread(target=one.run, args=(0,))
        running.start()
        while one.pull.resumed < 3:
            time.sleep(0.01)
        one.cancel()
        running.join(10)
    assert not running.is_alive()
    assert one.pull.error is None
    assert one.pull.finished_at is None


def test_one_that_is_cancelled_before_its_time_asks_for_nothing(blobs: Blobs) -> None:
    with serving(blobs) as address:
        one = puller(address)
        running = threading.Thread(target=one.run, args=(time.monotonic() + 60,))
        running.start()
        one.cancel()
        running.join(10)
    assert not running.is_alive()
    assert blobs.connections == 0
