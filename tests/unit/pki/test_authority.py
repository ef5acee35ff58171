import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.pki import certificates
from p2pdist.pki.authority import Authority, hash_from_text, server_names
from p2pdist.pki.errors import AuthorityExists, AuthorityMissing, CredentialError
from p2pdist.pki.peers import PeerKind, id_of

from .tls import NOW


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _server(authority: Authority, names: list[str] | None = None, after: timedelta = timedelta()) -> x509.Certificate:
    made = authority.server_credentials(names, NOW + after)
    return x509.load_pem_x509_certificate(made.certificate.read_bytes())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "state" / "pki", "tracker-1", NOW)


def test_files_and_their_modes(authority: Authority) -> None:
    authority.server_credentials(["localhost"], NOW)
    modes = {path.name: _mode(path) for path in authority.directory.iterdir()}
    assert modes == {"ca.key": 0o600, "ca.pem": 0o644, "server.key": 0o600, "server.pem": 0o644}
    assert _mode(authority.directory) == 0o700


def test_load_gives_what_create_made(authority: Authority) -> None:
    loaded = Authority.load(authority.directory)
    assert loaded.certificate == authority.certificate
    assert loaded.ca_hash == str(Digest.of(authority.der))
    assert loaded.validity.not_after - NOW == timedelta(days=3650)
    public_key = Ed25519PrivateKey.generate().public_key()
    issued = x509.load_pem_x509_certificate(loaded.issue(PeerKind.AGENT, public_key, "host", now=NOW).pem)
    issued.verify_directly_issued_by(authority.certificate)


def test_create_never_overwrites(authority: Authority) -> None:
    before = {path: path.read_bytes() for path in authority.directory.iterdir()}
    with pytest.raises(AuthorityExists, match="stays as it is"):
        Authority.create(authority.directory, "again")
    (authority.directory / "ca.pem").rename(authority.directory / "kept")
    with pytest.raises(AuthorityExists):
        Authority.create(authority.directory, "again")
    (authority.directory / "kept").rename(authority.directory / "ca.pem")
    assert {path: path.read_bytes() for path in authority.directory.iterdir()} == before


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda d: (d / "ca.key").unlink(), r"ca\.key is missing beside .*ca\.pem: put it back from a backup"),
        (lambda d: (d / "ca.pem").unlink(), r"ca\.pem is missing beside .*ca\.key"),
        (lambda d: (d / "ca.key").chmod(0o644), r"ca\.key has mode 0644.*chmod 600 .*ca\.key"),
        (lambda d: (d / "ca.key").write_text("x"), r"ca\.key holds no PEM private key"),
        (lambda d: (d / "ca.pem").write_text("x"), r"ca\.pem holds no PEM certificate"),
        (lambda d: (d / "ca.pem").write_bytes(b"x" * 70_000), r"ca\.pem is larger than 65536 bytes"),
    ],
)
def test_load_says_what_is_wrong(authority: Authority, spoil: object, sentence: str) -> None:
    spoil(authority.directory)  # type: ignore[operator]
    with pytest.raises(CredentialError, match=sentence):
        Authority.load(authority.directory)


def test_load_refuses_a_key_of_another_ca(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "tracker-1")
    (authority.directory / "ca.pem").write_bytes(other.pem)
    with pytest.raises(CredentialError, match="don't belong together"):
        Authority.load(authority.directory)
    with pytest.raises(AuthorityMissing, match="p2pdist pki init"):
        Authority.load(tmp_path)


def test_issued_certificate_says_who_and_no_more(authority: Authority) -> None:
    public_key = Ed25519PrivateKey.generate().public_key()
    issued = authority.issue(PeerKind.AGENT, public_key, "host-1", now=NOW)
    certificate = x509.load_pem_x509_certificate(issued.pem)
    assert certificates.peer_of(certificate) == issued.peer
    assert issued.peer.id == id_of(public_key)
    assert issued.not_after == NOW + timedelta(days=30)
    assert certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [f"p2pdist:agent:{issued.peer.id}"]
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(uses) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_no_certificate_outlives_the_ca(authority: Authority) -> None:
    public_key = Ed25519PrivateKey.generate().public_key()
    late = NOW + timedelta(days=3640)
    assert authority.issue(PeerKind.AGENT, public_key, "h", now=late).not_after == authority.validity.not_after
    with pytest.raises(CredentialError, match="ran out at"):
        authority.issue(PeerKind.AGENT, public_key, "h", now=NOW + timedelta(days=3651))


@pytest.mark.parametrize("name", ["", "a b", "-a", "x" * 65, "höst", "a\n", "a,CN=b"])
def test_names_that_are_none(authority: Authority, name: str) -> None:
    with pytest.raises(InvalidInput, match="can't be the name"):
        authority.issue(PeerKind.AGENT, Ed25519PrivateKey.generate().public_key(), name)


def test_server_certificate_names_hosts_and_addresses(authority: Authority) -> None:
    certificate = _server(authority, ["Tracker.example", "10.0.0.1", "2001:DB8::1"])
    assert server_names(certificate) == ["tracker.example", "10.0.0.1", "2001:db8::1"]
    assert certificates.peer_of(certificate).kind is PeerKind.TRACKER
    with pytest.raises(InvalidInput, match="neither a host name nor an IP address"):
        _server(authority, ["not a name"])


def test_server_certificate_is_reissued_when_it_must_be(authority: Authority, tmp_path: Path) -> None:
    first = _server(authority, ["a.example"])
    assert _server(authority, ["a.example"], timedelta(days=50)) == first
    assert _server(authority, None, timedelta(days=50)) == first
    aged = _server(authority, None, timedelta(days=61))
    assert aged != first
    assert server_names(aged) == ["a.example"]
    renamed = _server(authority, ["b.example"], timedelta(days=61))
    assert server_names(renamed) == ["b.example"]
    path = authority.directory / "server.pem"
    path.write_bytes(Authority.create(tmp_path / "other", "tracker-1").pem)
    foreign = _server(authority, ["b.example"], timedelta(days=61))
    foreign.verify_directly_issued_by(authority.certificate)
    path.write_text("damaged")
    assert server_names(_server(authority, ["b.example"])) == ["b.example"]
    ids = {certificates.peer_of(certificate).id for certificate in (first, aged, renamed, foreign)}
    assert len(ids) == 1


def test_server_certificate_follows_a_key_that_was_removed(authority: Authority) -> None:
    first = _server(authority, ["a.example"])
    (authority.directory / "server.key").unlink()
    second = _server(authority, None)
    key = certificates.parse_key((authority.directory / "server.key").read_bytes(), "server.key")
    assert certificates.public_key_of(second) == key.public_key() != certificates.public_key_of(first)


def test_server_certificate_near_the_end_of_the_ca_is_not_reissued_for_ever(authority: Authority) -> None:
    last = _server(authority, ["a.example"], timedelta(days=3640))
    assert _server(authority, ["a.example"], timedelta(days=3649)) == last


def test_ca_hash_as_an_operator_writes_it(authority: Authority) -> None:
    assert str(hash_from_text(f" {authority.ca_hash}\n")) == authority.ca_hash
    for wrong in ("", "sha256:12", authority.ca_hash.upper(), "sha512:" + "0" * 128):
        with pytest.raises(InvalidInput):
            hash_from_text(wrong)
