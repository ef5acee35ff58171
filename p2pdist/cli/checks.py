"""What `p2pdist doctor` looks at: each check says what it found and, where that isn't well, what to do about it."""

import ctypes
import enum
import hashlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct

from p2pdist.agent.report import Certificate, Checkup, Status, StoreSpace, TrackerLink
from p2pdist.cli.mirror import describe, last_pull, shim_of
from p2pdist.core.errors import InvalidInput
from p2pdist.core.units import format_size
from p2pdist.http.listeners import split_address
from p2pdist.oci.reference import Reference
from p2pdist.runtimes.known import RUNTIMES, is_here
from p2pdist.runtimes.tree import HostTree

_CONNECT_SECONDS = 2.0
_PULL_SECONDS = 30.0
_MAX_BYTES = 4 * 1024 * 1024
_LITTLE_BYTES = 1024**3
_NONE_BYTES = 100 * 1024**2
_DAY_SECONDS = 86400
_CLOCK_UNSYNCHRONISED = 5
_TIMEX_BYTES = 256
_ACCEPT = ", ".join(
    f"application/vnd.{kind}"
    for kind in (
        "oci.image.index.v1+json",
        "oci.image.manifest.v1+json",
        "docker.distribution.manifest.list.v2+json",
        "docker.distribution.manifest.v2+json",
    )
)


class Level(enum.Enum):
    """How bad a finding is."""

    FINE = "ok"
    WARNING = "warning"
    WRONG = "WRONG"


class Finding(Struct, frozen=True):
    """What one check found; `advice` is what to do about it."""

    check: str
    level: Level
    says: str
    advice: str = ""


def check_agent(status: Status, checkup: Checkup, image: str | None) -> Iterator[Finding]:
    """Everything that takes an agent that answers."""
    yield Finding("agent", Level.FINE, f"{status.name} runs, p2pdist {status.version}")
    yield _tracker(status.tracker)
    yield _certificate(checkup.certificate, status.name, time.time())
    yield _store(checkup.store)
    yield _test_pull(status, image)
    yield _peers(checkup.peers)


def _tracker(link: TrackerLink) -> Finding:
    if link.connected:
        return Finding("tracker", Level.FINE, f"{link.address} is connected")
    says = f"{link.address} isn't connected: {link.last_error}"
    if _reaches(link.address):
        return Finding("tracker", Level.WRONG, says, "it takes connections: look at the agent's log and the tracker's")
    return Finding("tracker", Level.WRONG, says, "nothing answers there: is the tracker up, the way to it open?")


def _certificate(certificate: Certificate | None, name: str, now: float) -> Finding:
    if certificate is None:
        advice = "fine on one machine; else enrol: p2pdist agent --join TOKEN --ca-hash HASH"
        return Finding("certificate", Level.WARNING, "none: what the tracker says isn't encrypted", advice)
    days = (certificate.not_after - now) / _DAY_SECONDS
    if now < certificate.not_before:
        return Finding("certificate", Level.WRONG, "it isn't valid yet", "set this host's clock, or the tracker's")
    if days < 0:
        advice = "enrol again: p2pdist agent --join TOKEN --ca-hash HASH"
        return Finding("certificate", Level.WRONG, f"it ran out {-days:.0f} days ago", advice)
    if now > certificate.renew_after + _DAY_SECONDS:
        says = f"it ends in {days:.1f} days and should have been renewed"
        return Finding("certificate", Level.WARNING, says, "see certificate_not_renewed in the agent's log")
    if certificate.name != name:
        says = f"it calls this host {certificate.name}, the configuration {name}"
        return Finding("certificate", Level.WARNING, says, "harmless; the next enrolment gives it the new name")
    return Finding("certificate", Level.FINE, f"{certificate.name}, valid for {days:.0f} days")


def check_clock() -> Finding:
    """Whether the kernel believes that its clock is right (adjtimex(2)); certificates depend on it."""
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state == _CLOCK_UNSYNCHRONISED:
        advice = "run chrony or systemd-timesyncd: a clock that is off makes certificates invalid"
        return Finding("clock", Level.WARNING, "nothing keeps it right", advice)
    if state < 0:
        return Finding("clock", Level.WARNING, "the kernel doesn't say whether it is right", "compare it with another")
    return Finding("clock", Level.FINE, "it is kept right")


def _store(store: StoreSpace) -> Finding:
    says = (
        f"{store.path} holds {format_size(store.used_bytes)}, its filesystem has {format_size(store.free_bytes)} free"
    )
    advice = "free space there, or let [store] quota keep some"
    if store.free_bytes < _NONE_BYTES:
        return Finding("store", Level.WRONG, says, advice)
    if store.free_bytes < _LITTLE_BYTES:
        return Finding("store", Level.WARNING, says, advice)
    return Finding("store", Level.FINE, says)


def _peers(addresses: list[str]) -> Finding:
    if not addresses:
        advice = "fine if this is the only one; else look whether the others are connected to the tracker"
        return Finding("peers", Level.WARNING, "the tracker names no other agents", advice)
    with ThreadPoolExecutor(len(addresses)) as pool:
        reached = list(pool.map(_reaches, addresses))
    says = f"{sum(reached)} of {len(addresses)} other agents that were tried take connections"
    lost = ", ".join(address for address, one in zip(addresses, reached, strict=True) if not one)
    advice = f"let agents reach each other's relay port, and the swarm's; not reached: {lost}" if lost else ""
    level = Level.WRONG if not any(reached) else Level.WARNING if lost else Level.FINE
    return Finding("peers", level, says, advice)


def check_runtimes(status: Status | None) -> Iterator[Finding]:
    """Whether the runtimes of this host are sent to the agent, and come."""
    shim, tree = shim_of(status), HostTree()
    here = [runtime for runtime in RUNTIMES.values() if is_here(runtime)]
    if not here:
        yield Finding("runtimes", Level.WARNING, "no container runtime is on this host")
    for runtime in here:
        reading = runtime.reading(tree, shim)
        pull = last_pull(status, runtime.name)
        if not reading.files:
            advice = f"p2pdist mirror install {runtime.name}"
            said = reading.problems[0] if reading.problems else f"{runtime.title} isn't sent to the agent"
            yield Finding(runtime.name, Level.WARNING, said, advice)
        elif reading.problems:
            yield Finding(runtime.name, Level.WARNING, reading.problems[0], "see p2pdist mirror status")
        else:
            last = f"last pull: {describe(pull)}" if pull else "no pull through this agent since it started"
            yield Finding(runtime.name, Level.FINE, f"it asks {shim} first; {last}")


def _test_pull(status: Status, image: str | None) -> Finding:
    names = [client.manifest.name for client in status.clients if client.manifest]
    chosen = image or next((name for name in reversed(names) if name.split("/")[0] in status.upstreams), None)
    if chosen is None:
        return Finding("test pull", Level.WARNING, "nothing to try yet", "name an image: p2pdist doctor --image IMAGE")
    started = time.monotonic()
    try:
        size_bytes = _pull_smallest(shim_of(status), chosen)
    except (OSError, ValueError, LookupError, http.client.HTTPException, InvalidInput) as error:
        advice = "the agent's log says why; runtimes go to the registry meanwhile"
        return Finding("test pull", Level.WRONG, f"{chosen}: {error}", advice)
    seconds = time.monotonic() - started
    return Finding("test pull", Level.FINE, f"{chosen}: manifest and a blob of {size_bytes} B in {seconds:.2f} s")


def _pull_smallest(shim: str, image: str) -> int:
    """Get an image's manifest and its smallest blob as a runtime does; the blob's size. Raises when that fails."""
    reference = Reference.parse(image)
    base = f"/v2/{reference.repository.path}"
    namespace = f"?ns={reference.repository.registry}"
    manifest = json.loads(_get(shim, f"{base}/manifests/{reference.target}{namespace}"))
    if "manifests" in manifest:
        manifest = json.loads(_get(shim, f"{base}/manifests/{manifest['manifests'][0]['digest']}{namespace}"))
    blobs = [blob for blob in (manifest["config"], *manifest["layers"]) if blob["size"] <= _MAX_BYTES]
    blob = min(blobs, key=lambda each: int(each["size"]))
    data = _get(shim, f"{base}/blobs/{blob['digest']}{namespace}")
    algorithm, _, wanted = blob["digest"].partition(":")
    if hashlib.new(algorithm, data).hexdigest() != wanted:
        raise ValueError(f"the blob {blob['digest']} came with other bytes")
    return len(data)


def _get(shim: str, target: str) -> bytes:
    connection = http.client.HTTPConnection(*split_address(shim), timeout=_PULL_SECONDS)
    try:
        connection.request("GET", target, headers={"Accept": _ACCEPT, "User-Agent": "p2pdist-doctor"})
        with connection.getresponse() as response:
            body = response.read(_MAX_BYTES + 1)
            if response.status != 200:
                raise ValueError(f"the shim answers {response.status}: {body[:300].decode(errors='replace')}")
            if len(body) > _MAX_BYTES:
                raise ValueError(f"{target} is larger than {_MAX_BYTES} bytes")
            return body
    finally:
        connection.close()


def _reaches(address: str) -> bool:
    try:
        socket.create_connection(split_address(address), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
