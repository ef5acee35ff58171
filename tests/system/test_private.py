"""Private repositories: the tracker holds the credentials, nobody else sees them, and the bytes don't travel openly."""

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from simulations.network import Host, Link, Network
from tests.system.clients import skopeo_copy
from tests.system.daemons import merged
from tests.system.fetches import get, pull_at_once
from tests.system.fleet import UPSTREAM, Fleet, upstream
from tests.system.images import Content, Image, image, layer
from tests.system.places import Place
from tests.system.registries import ACCOUNT, Registry

REPOSITORY = "private/app"
KINDS = ("htpasswd", "token", "htpasswd over TLS")


class PrivateOrigin(NamedTuple):
    registry: Registry
    fleet: Fleet
    image: Image


def tls_context(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """What the origin serves TLS with, and the CA file that makes it trusted."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = directory / "origin-ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    return context, ca_file


@pytest.fixture(scope="module", params=KINDS)
def private(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]
) -> Iterator[PrivateOrigin]:
    require_program("docker-registry")
    directory = tmp_path_factory.mktemp("private")
    context, ca_file = tls_context(directory) if "TLS" in request.param else (None, None)
    with Registry(directory / "registry", auth=request.param.split()[0], tls=context) as registry:
        made = image(layer(4_000_000, request.param), layer(1_000_000, f"{request.param} zstd", "zstd"))
        registry.push(made, REPOSITORY, "1")
        origin = upstream(
            registry,
            access="fleet",
            credentials_file=str(registry.write_docker_config(directory / "docker-config.json")),
        )
        trusted = merged(origin, {"ca_file": str(ca_file)} if ca_file else {})
        with Fleet(directory / "fleet", [trusted], agents=3) as fleet:
            yield PrivateOrigin(registry, fleet, made)


def test_private_images_are_dealt_once_and_never_swarmed(private: PrivateOrigin) -> None:
    registry, fleet, made = private
    pull_at_once(fleet.agents, REPOSITORY, "1", made)
    assert registry.meter.total_blob_bytes() == made.blob_bytes
    dealt = fleet.tracker.dealt_bytes()
    late = fleet.add_agent()
    pull_at_once([late], REPOSITORY, "1", made)
    assert registry.meter.total_blob_bytes() == made.blob_bytes
    received = [agent.received() for agent in fleet.agents]
    assert [one.total for one in received] == [made.blob_bytes] * 4
    assert [one.swarm for one in received] == [0] * 4
    assert [one.origin for one in received] == [0] * 4
    assert (received[3].relay, received[3].dealt) == (made.blob_bytes, 0)
    assert fleet.tracker.dealt_bytes() == dealt


def test_skopeo_pulls_a_private_image_without_credentials_of_its_own(
    private: PrivateOrigin, tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    require_program("skopeo")
    source = f"{private.fleet.agents[0].shim_address}/{UPSTREAM}/{REPOSITORY}:1"
    skopeo_copy(source, tmp_path / "copy").assert_is(private.image)


def test_the_origin_was_asked_with_the_trackers_credentials(private: PrivateOrigin) -> None:
    pull_at_once(private.fleet.agents[:1], REPOSITORY, "1", private.image)
    served = [one for one in private.registry.meter.answered() if one.status in (200, 206) and REPOSITORY in one.path]
    assert served
    schemes = {one.authorization.split(" ")[0] for one in served}
    granted = [request for request in private.registry.tokens.requests if request.granted]
    if granted:
        assert schemes == {"Bearer"}
        assert {request.account for request in granted} == {ACCOUNT.user}
        assert all(scope == f"repository:{REPOSITORY}:pull" for request in granted for scope in request.scopes)
    else:
        assert {one.authorization for one in served} == {ACCOUNT.authorization}


def test_credentials_are_in_no_log(private: PrivateOrigin) -> None:
    pull_at_once(private.fleet.agents[:1], REPOSITORY, "1", private.image)
    for daemon in private.fleet.daemons():
        text = daemon.log_text()
        assert text, f"{daemon.name} logged nothing"
        assert ACCOUNT.password not in text
        assert ACCOUNT.authorization.split(" ")[1] not in text


def test_a_repository_that_the_account_cannot_see_is_a_clear_404(private: PrivateOrigin) -> None:
    status, _, body = get(private.fleet.agents[0], f"/v2/private/absent/manifests/1?ns={UPSTREAM}")
    assert status == 404
    assert b'"MANIFEST_UNKNOWN"' in body or b'"NAME_UNKNOWN"' in body


class Tapped(NamedTuple):
    """What passed one agent's link while it pulled a blob."""

    packets: bytes
    blob: Content

    def plain_slices(self) -> int:
        """How many of a hundred slices of the blob can be read in the packets as they are."""
        step = self.blob.size_bytes // SLICES
        slices = (self.blob.data[start : start + SLICE_BYTES] for start in range(0, step * SLICES, step))
        return sum(piece in self.packets for piece in slices)


SLICES = 100
SLICE_BYTES = 16
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
TAP_BYTES = 64 << 20


def tap(host: Host) -> socket.socket:
    """A packet socket that sees what passes the host's link (packet(7)); needs root."""

    def make() -> socket.socket:
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        packets.bind(("eth0", ETH_P_ALL))
        packets.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, TAP_BYTES)
        packets.setblocking(False)
        return packets

    return host.make_socket(make)


def drain(packets: socket.socket) -> bytes:
    received = []
    try:
        while True:
            received.append(packets.recv(1 << 17))
    except BlockingIOError:
        return b"".join(received)


@pytest.mark.parametrize("auth", ["none", "htpasswd"])
def test_only_a_private_blob_is_unreadable_on_the_way_between_tracker_and_agents(
    auth: str, tmp_path: Path, require_program: Callable[[str], str], needs_namespaces: None
) -> None:
    require_program("docker-registry")
    made = image(layer(4_000_000, auth, "none"))
    with (
        Network({name: Link() for name in ("origin", "tracker", "agent-1", "agent-2")}) as network,
        Registry(tmp_path / "registry", place=Place(network["origin"]), auth=auth) as registry,
    ):
        registry.push(made, REPOSITORY, "1")
        login = registry.write_docker_config(tmp_path / "docker-config.json")
        origin = upstream(registry, access="fleet", credentials_file=str(login))
        with (
            Fleet(tmp_path / "fleet", [origin], agents=2, network=network) as fleet,
            tap(network["agent-2"]) as packets,
        ):
            pull_at_once(fleet.agents, REPOSITORY, "1", made)
            tapped = Tapped(drain(packets), made.layers[0])
    assert len(tapped.packets) > made.blob_bytes
    if auth == "none":
        assert tapped.plain_slices() > SLICES // 2
    else:
        assert tapped.plain_slices() == 0
