import ssl
from datetime import timedelta
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from p2pdist.pki import contexts, files
from p2pdist.pki.authority import Authority
from p2pdist.pki.contexts import Credentials
from p2pdist.pki.errors import CredentialError, UntrustedPeer
from p2pdist.pki.peers import PeerIdentity, PeerKind, id_of

from .tls import NOW, credentials, handshake, odd_leaf


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca") / "pki", "tracker-1")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    # The same name, so that only the key tells the two apart.
    return Authority.create(tmp_path_factory.mktemp("other") / "pki", "tracker-1")


@pytest.fixture
def tracker(authority: Authority) -> Credentials:
    return authority.server_credentials(["tracker.example"])


@pytest.fixture
def agent(authority: Authority, tmp_path: Path) -> Credentials:
    return credentials(authority, tmp_path / "agent")


def test_agent_and_tracker_know_each_other(tracker: Credentials, agent: Credentials) -> None:
    server, client = handshake(contexts.tracker_control_server(tracker), contexts.agent_control_client(agent))
    assert server.peer is not None
    assert client.peer is not None
    assert (server.peer.kind, server.peer.name) == (PeerKind.AGENT, "host-1")
    assert (client.peer.kind, client.peer.name) == (PeerKind.TRACKER, "tracker.example")
    assert (server.received, client.received) == (b"ping", b"ping")


def test_control_server_lets_a_client_without_certificate_in_as_nobody(tracker: Credentials) -> None:
    server, client = handshake(contexts.tracker_control_server(tracker), contexts.enrolment_client())
    assert server.peer is None
    assert server.received == b"ping"
    # Nothing was verified, so the client knows nobody either; it has the leaf, to verify it against the pinned hash.
    assert client.peer is None
    assert client.leaf == ssl.PEM_cert_to_DER_cert(tracker.certificate.read_text())


def test_relay_is_mutual(agent: Credentials, authority: Authority, tmp_path: Path) -> None:
    other = credentials(authority, tmp_path / "other", name="host-2")
    server, client = handshake(contexts.relay_server(agent), contexts.relay_client(other))
    assert server.peer is not None
    assert client.peer is not None
    assert (server.peer.name, client.peer.name) == ("host-2", "host-1")


def test_relay_refuses_a_client_without_certificate(agent: Credentials) -> None:
    server, client = handshake(contexts.relay_server(agent), contexts.enrolment_client())
    assert server.refusal == "the peer showed no certificate; it must enrol first"
    assert client.refusal == "the peer wants a certificate and we showed none; this host must enrol first"


@pytest.mark.parametrize("make_server", [contexts.relay_server, contexts.tracker_control_server])
def test_client_of_another_ca_is_refused(
    make_server: object, tracker: Credentials, agent: Credentials, stranger: Authority, tmp_path: Path
) -> None:
    foreign = credentials(stranger, tmp_path / "foreign")
    trusting = Credentials(foreign.certificate, foreign.key, agent.ca)
    server, client = handshake(make_server(tracker), contexts.relay_client(trusting))  # type: ignore[operator]
    assert server.peer is None
    assert server.received == b""
    assert server.refusal is not None
    assert "by another CA" in server.refusal or "not signed by our CA" in server.refusal
    assert client.refusal is not None
    assert client.received == b""


def test_tracker_of_another_ca_is_refused(agent: Credentials, stranger: Authority) -> None:
    foreign = stranger.server_credentials(["tracker.example"])
    server, client = handshake(contexts.tracker_control_server(foreign), contexts.agent_control_client(agent))
    assert client.peer is None
    assert client.refusal is not None
    assert "another CA" in client.refusal or "not signed by our CA" in client.refusal
    assert server.refusal is not None


def test_expired_certificates_are_refused_at_both_ends(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "pki", "t", now=NOW - timedelta(days=10))
    fresh = credentials(authority, tmp_path / "fresh")
    old = credentials(authority, tmp_path / "old", issued_at=NOW - timedelta(days=2), lifetime=timedelta(days=1))
    server, client = handshake(contexts.relay_server(fresh), contexts.relay_client(old))
    assert server.refusal is not None
    assert server.refusal.startswith("the peer's certificate has expired")
    assert client.refusal is not None
    assert client.refusal.startswith("the peer says that our certificate has expired")
    server, client = handshake(contexts.relay_server(old), contexts.relay_client(fresh))
    assert client.refusal is not None
    assert client.refusal.startswith("the peer's certificate has expired")


def test_certificate_that_is_not_valid_yet_is_refused(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "pki", "t")
    early = credentials(authority, tmp_path / "early", issued_at=NOW + timedelta(hours=1))
    fresh = credentials(authority, tmp_path / "fresh")
    server, _ = handshake(contexts.relay_server(fresh), contexts.relay_client(early))
    assert server.refusal is not None
    assert "check the clocks" in server.refusal


def test_slow_clocks_are_tolerated(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "pki", "t", now=NOW + timedelta(minutes=4))
    ahead = credentials(authority, tmp_path / "ahead", issued_at=NOW + timedelta(minutes=4))
    server, client = handshake(contexts.relay_server(ahead), contexts.relay_client(ahead))
    assert server.peer is not None
    assert client.peer is not None


async def test_peer_of_the_wrong_kind_is_refused(agent: Credentials) -> None:
    left, right = trio.testing.memory_stream_pair()
    server = trio.SSLStream(left, contexts.relay_server(agent), server_side=True)
    client = trio.SSLStream(right, contexts.agent_control_client(agent))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        nursery.start_soon(client.do_handshake)
    assert contexts.require_peer(server, PeerKind.AGENT, PeerKind.TRACKER).name == "host-1"
    with pytest.raises(UntrustedPeer, match=r"the peer is the agent host-1 \([0-9a-f]{32}\).* for a tracker"):
        contexts.require_peer(client, PeerKind.TRACKER)


def test_no_certificate_is_no_peer(tracker: Credentials) -> None:
    class Nobody:
        def getpeercert(self) -> None:
            return None

    with pytest.raises(UntrustedPeer, match="showed no certificate"):
        contexts.require_peer(Nobody(), PeerKind.AGENT)


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["https://example.org/"],
        ["p2pdist:agent:xyz"],
        ["p2pdist:origin:" + "0" * 32],
        ["p2pdist:agent:" + "0" * 32, "p2pdist:tracker:" + "0" * 32],
        ["p2pdist:agent:" + "0" * 32 + "\n"],
    ],
)
def test_certificate_without_a_name_of_ours_is_nobody_of_the_fleet(
    authority: Authority, agent: Credentials, tmp_path: Path, uris: list[str]
) -> None:
    names: list[x509.GeneralName] = [x509.DNSName("odd"), *map(x509.UniformResourceIdentifier, uris)]
    odd = odd_leaf(authority, tmp_path / "odd", names, ExtendedKeyUsageOID.CLIENT_AUTH)
    server, _ = handshake(contexts.relay_server(agent), contexts.relay_client(odd))
    assert server.peer is None
    assert isinstance(server.error, UntrustedPeer)


def test_certificate_for_servers_only_is_no_client(authority: Authority, agent: Credentials, tmp_path: Path) -> None:
    name = x509.UniformResourceIdentifier("p2pdist:agent:" + "0" * 32)
    odd = odd_leaf(authority, tmp_path / "odd", [name], ExtendedKeyUsageOID.SERVER_AUTH)
    server, _ = handshake(contexts.relay_server(agent), contexts.relay_client(odd))
    assert server.refusal == "the peer's certificate isn't meant for this end of a connection"


def test_older_tls_is_refused(agent: Credentials) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    server, client = handshake(contexts.relay_server(agent), old)
    assert server.refusal == "the peer doesn't speak our version of TLS (1.3)"
    assert client.refusal == "the peer doesn't speak our version of TLS (1.3)"


def test_plain_peers_are_named_as_such(agent: Credentials) -> None:
    server, _ = handshake(contexts.relay_server(agent), None)
    assert server.refusal is not None
    assert "doesn't speak TLS" in server.refusal
    _, client = handshake(None, contexts.relay_client(agent))
    assert client.refusal is not None
    assert "doesn't speak TLS" in client.refusal


def test_reload_shows_the_new_certificate(authority: Authority, agent: Credentials, tmp_path: Path) -> None:
    server_context = contexts.relay_server(agent)
    renewed = credentials(authority, tmp_path / "renewed", name="renamed")
    agent.certificate.write_bytes(renewed.certificate.read_bytes())
    files.write(agent.key, renewed.key.read_bytes(), files.PRIVATE)
    contexts.reload(server_context, agent)
    _, client = handshake(server_context, contexts.relay_client(renewed))
    assert client.peer is not None
    assert client.peer.name == "renamed"


def test_files_that_do_not_fit_are_named(agent: Credentials, authority: Authority, tmp_path: Path) -> None:
    other = credentials(authority, tmp_path / "other")
    with pytest.raises(CredentialError, match="the certificate and the private key don't belong together"):
        contexts.relay_server(Credentials(agent.certificate, other.key, agent.ca))
    with pytest.raises(CredentialError, match=r"missing\.pem can't be read: No such file"):
        contexts.relay_server(Credentials(tmp_path / "missing.pem", agent.key, agent.ca))
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(CredentialError, match=r"empty\.pem holds no PEM certificate"):
        contexts.relay_server(Credentials(agent.certificate, agent.key, empty))
    agent.key.chmod(0o640)
    with pytest.raises(CredentialError, match=r"mode 0640.*chmod 600"):
        contexts.relay_client(agent)


def test_id_comes_from_the_key() -> None:
    key = Ed25519PrivateKey.generate().public_key()
    peer = PeerIdentity(PeerKind.AGENT, id_of(key), "n")
    assert PeerIdentity.from_uris([peer.uri], "n") == peer
    assert id_of(key) != id_of(Ed25519PrivateKey.generate().public_key())
