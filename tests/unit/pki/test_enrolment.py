import base64
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pdist.core.errors import DigestInvalid, InvalidInput
from p2pdist.pki import certificates, contexts, enrolment, revocations, tokens
from p2pdist.pki.authority import Authority
from p2pdist.pki.errors import AgentRevoked, RequestRefused, TokenUnknown, TokenUsedUp, UntrustedPeer
from p2pdist.pki.identity import Identity, open_key
from p2pdist.pki.peers import PeerIdentity, PeerKind, id_of

from .tls import NOW, handshake, odd_leaf

# cryptography warns of certificates that it will refuse some day, such as one with a negative serial number.
_hostile = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca") / "pki", "tracker-1", NOW)


@pytest.fixture(scope="module")
def leaf_der(authority: Authority) -> bytes:
    return _leaf(authority)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "tracker.sqlite"


def _leaf(authority: Authority, kind: PeerKind = PeerKind.TRACKER) -> bytes:
    issued = authority.issue(kind, Ed25519PrivateKey.generate().public_key(), "host-1", now=NOW)
    return certificates.to_der(x509.load_pem_x509_certificate(issued.pem))


def test_whole_enrolment_over_tls(authority: Authority, database: Path, tmp_path: Path) -> None:
    tracker = authority.server_credentials(["tracker.example"])
    server, client = handshake(contexts.tracker_control_server(tracker), contexts.enrolment_client())
    assert server.peer is None
    assert client.leaf is not None
    peer = enrolment.verify_tracker(authority.der, client.leaf, authority.ca_hash)
    assert (peer.kind, peer.name) == (PeerKind.TRACKER, "tracker.example")

    directory = tmp_path / "identity"
    csr = enrolment.make_csr(open_key(directory), "host-1")
    issued = enrolment.admit(authority, database, token=tokens.create(database), csr_pem=csr, name="host-1")
    identity = Identity.store(directory, issued.pem, authority.pem)
    server, client = handshake(
        contexts.tracker_control_server(tracker), contexts.agent_control_client(identity.credentials)
    )
    assert server.peer == identity.peer == issued.peer


def test_tracker_of_another_fleet_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "tracker-1", NOW)
    with pytest.raises(UntrustedPeer, match=r"not the pinned .* somebody stands between"):
        enrolment.verify_tracker(other.der, _leaf(other), authority.ca_hash)
    # The right CA certificate can be had by anybody; a leaf by it can't.
    with pytest.raises(UntrustedPeer, match="wasn't signed by its CA"):
        enrolment.verify_tracker(authority.der, _leaf(other), authority.ca_hash)


def test_an_agent_is_no_tracker(authority: Authority) -> None:
    with pytest.raises(UntrustedPeer, match=r"the peer is the agent host-1 .*, not a tracker"):
        enrolment.verify_tracker(authority.der, _leaf(authority, PeerKind.AGENT), authority.ca_hash)
    with pytest.raises(UntrustedPeer):
        enrolment.verify_tracker(authority.der, authority.der, authority.ca_hash)


def test_tracker_must_be_meant_for_a_server_and_named_as_one(authority: Authority, tmp_path: Path) -> None:
    name = x509.UniformResourceIdentifier("p2pdist:tracker:" + "0" * 32)
    client = odd_leaf(authority, tmp_path / "client", [name], ExtendedKeyUsageOID.CLIENT_AUTH)
    nameless = odd_leaf(authority, tmp_path / "dns", [x509.DNSName("tracker")], ExtendedKeyUsageOID.SERVER_AUTH)
    right = odd_leaf(authority, tmp_path / "right", [name], ExtendedKeyUsageOID.SERVER_AUTH)
    ders = [ssl.PEM_cert_to_DER_cert(leaf.certificate.read_text()) for leaf in (client, nameless, right)]
    with pytest.raises(UntrustedPeer, match="isn't meant for a server"):
        enrolment.verify_tracker(authority.der, ders[0], authority.ca_hash)
    with pytest.raises(UntrustedPeer, match="has exactly one name"):
        enrolment.verify_tracker(authority.der, ders[1], authority.ca_hash)
    assert enrolment.verify_tracker(authority.der, ders[2], authority.ca_hash).kind is PeerKind.TRACKER


def test_leaf_can_not_stand_for_the_ca(authority: Authority) -> None:
    leaf = _leaf(authority)
    with pytest.raises(UntrustedPeer, match="may not sign certificates"):
        enrolment.verify_tracker(leaf, leaf, str(certificates.hash_of(leaf)))


def test_times_are_checked(authority: Authority) -> None:
    leaf = _leaf(authority)
    with pytest.raises(UntrustedPeer, match="the tracker's certificate ran out"):
        enrolment.verify_tracker(authority.der, leaf, authority.ca_hash, NOW + timedelta(days=31))
    with pytest.raises(UntrustedPeer, match=r"the tracker's CA isn't valid before .* check the clocks"):
        enrolment.verify_tracker(authority.der, leaf, authority.ca_hash, NOW - timedelta(minutes=6))
    enrolment.verify_tracker(authority.der, leaf, authority.ca_hash, NOW - timedelta(minutes=4))


def test_pinned_hash_must_be_one(authority: Authority) -> None:
    with pytest.raises(DigestInvalid):
        enrolment.verify_tracker(authority.der, _leaf(authority), "sha256:12")
    with pytest.raises(InvalidInput):
        enrolment.verify_tracker(authority.der, _leaf(authority), "sha512:" + "0" * 128)


@_hostile
@settings(deadline=None)
@given(st.data())
def test_damaged_certificates_never_crash_or_pass(authority: Authority, leaf_der: bytes, data: st.DataObject) -> None:
    leaf = bytearray(leaf_der)
    places = st.integers(0, len(leaf) - 1)
    for place, change in data.draw(st.dictionaries(places, st.integers(1, 255), min_size=1, max_size=3)).items():
        leaf[place] ^= change
    with pytest.raises(UntrustedPeer):
        enrolment.verify_tracker(authority.der, bytes(leaf), authority.ca_hash, NOW)


@_hostile
@settings(deadline=None)
@given(st.binary(max_size=300))
def test_garbage_in_place_of_certificates(authority: Authority, garbage: bytes) -> None:
    with pytest.raises(UntrustedPeer):
        enrolment.verify_tracker(garbage, _leaf(authority), str(certificates.hash_of(garbage)))
    with pytest.raises(UntrustedPeer):
        enrolment.verify_tracker(authority.der, garbage, authority.ca_hash)


def test_only_the_key_of_a_request_counts(authority: Authority) -> None:
    key = Ed25519PrivateKey.generate()
    wish = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("p2pdist:tracker:" + "0" * 32)])
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
        .add_extension(wish, critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, None)
        .public_bytes(Encoding.PEM)
    )
    issued = enrolment.sign_request(authority, csr, name="host-1", now=NOW)
    certificate = x509.load_pem_x509_certificate(issued.pem)
    assert certificates.peer_of(certificate) == PeerIdentity(PeerKind.AGENT, id_of(key.public_key()), "host-1")
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_requests_that_are_refused(authority: Authority) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "h")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    curve = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.PEM)
    with pytest.raises(RequestRefused, match="isn't Ed25519"):
        enrolment.read_request(curve)
    request = x509.load_pem_x509_csr(enrolment.make_csr(Ed25519PrivateKey.generate(), "h"))
    der = bytearray(request.public_bytes(Encoding.DER))
    der[-1] ^= 1
    spoilt = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(RequestRefused, match="isn't signed with the key that it is for"):
        enrolment.read_request(spoilt)
    with pytest.raises(RequestRefused, match="at most 4096"):
        enrolment.read_request(b"x" * 5000)


@_hostile
@settings(deadline=None)
@given(st.binary(max_size=500))
def test_garbage_is_no_request(garbage: bytes) -> None:
    for pem in (garbage, _as_pem(garbage)):
        with pytest.raises(RequestRefused):
            enrolment.read_request(pem)


def _as_pem(body: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE REQUEST-----\n%b\n-----END CERTIFICATE REQUEST-----\n" % base64.b64encode(body)


def test_a_bad_request_costs_no_use(authority: Authority, database: Path) -> None:
    token = tokens.create(database)
    good = enrolment.make_csr(Ed25519PrivateKey.generate(), "host-1")
    with pytest.raises(RequestRefused):
        enrolment.admit(authority, database, token=token, csr_pem=b"garbage", name="host-1")
    with pytest.raises(InvalidInput):
        enrolment.admit(authority, database, token=token, csr_pem=good, name="not a name")
    with pytest.raises(TokenUnknown):
        enrolment.admit(authority, database, token="p2pjoin_wrong", csr_pem=good, name="host-1")
    first = enrolment.admit(authority, database, token=token, csr_pem=good, name="host-1")
    again = enrolment.admit(authority, database, token=token, csr_pem=good, name="host-1")
    assert first.peer == again.peer
    other = enrolment.make_csr(Ed25519PrivateKey.generate(), "host-1")
    with pytest.raises(TokenUsedUp):
        enrolment.admit(authority, database, token=token, csr_pem=other, name="host-1")


def test_renewal_is_for_the_same_key(authority: Authority, database: Path) -> None:
    key = Ed25519PrivateKey.generate()
    peer = PeerIdentity(PeerKind.AGENT, id_of(key.public_key()), "host-1")
    csr = enrolment.make_csr(key, "host-1")
    later = NOW + timedelta(days=20)
    issued = enrolment.renew(authority, database, peer=peer, csr_pem=csr, name="renamed", now=later)
    assert (issued.peer.id, issued.peer.name, issued.not_after) == (peer.id, "renamed", later + timedelta(days=30))
    other = enrolment.make_csr(Ed25519PrivateKey.generate(), "host-1")
    with pytest.raises(RequestRefused, match="a new key must enrol anew"):
        enrolment.renew(authority, database, peer=peer, csr_pem=other, name="host-1")


def test_revoked_agent_gets_nothing(authority: Authority, database: Path) -> None:
    key = Ed25519PrivateKey.generate()
    peer = PeerIdentity(PeerKind.AGENT, id_of(key.public_key()), "host-1")
    csr = enrolment.make_csr(key, "host-1")
    token = tokens.create(database)
    revocations.revoke(database, peer.id)
    with pytest.raises(AgentRevoked):
        enrolment.renew(authority, database, peer=peer, csr_pem=csr, name="host-1")
    with pytest.raises(AgentRevoked):
        enrolment.admit(authority, database, token=token, csr_pem=csr, name="host-1")
    assert tokens.listed(database)[0].used_by == ()
