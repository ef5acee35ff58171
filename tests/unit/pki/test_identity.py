import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from p2pdist.pki import certificates, files
from p2pdist.pki.authority import Authority
from p2pdist.pki.enrolment import make_csr, sign_request
from p2pdist.pki.errors import CredentialError, IdentityExpired, NotEnrolled
from p2pdist.pki.identity import Identity, open_key
from p2pdist.pki.peers import PeerKind

from .tls import NOW


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "pki", "tracker-1", NOW)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "identity"


def _enrol(authority: Authority, directory: Path, name: str = "host-1") -> Identity:
    issued = sign_request(authority, make_csr(open_key(directory), name), name=name, now=NOW)
    return Identity.store(directory, issued.pem, authority.pem, NOW)


def test_enrolled_identity_is_there_after_a_restart(authority: Authority, directory: Path) -> None:
    stored = _enrol(authority, directory)
    loaded = Identity.load(directory, NOW)
    assert loaded.peer == stored.peer
    assert (loaded.peer.kind, loaded.peer.name) == (PeerKind.AGENT, "host-1")
    assert loaded.ca_hash == authority.ca_hash
    assert loaded.validity.not_after == NOW + timedelta(days=30)
    assert timedelta(days=19) < loaded.renew_after - NOW < timedelta(days=20)


def test_private_files_are_private_whatever_the_umask(authority: Authority, directory: Path) -> None:
    before = os.umask(0)
    try:
        _enrol(authority, directory)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == {"agent.key": 0o600, "agent.pem": 0o644, "ca.pem": 0o644}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_key_and_id_survive_renewal_and_new_enrolment(authority: Authority, directory: Path) -> None:
    first, again = _enrol(authority, directory), _enrol(authority, directory, "renamed")
    assert first.peer.id == again.peer.id
    assert again.peer.name == "renamed"


def test_nothing_there_means_not_enrolled(directory: Path) -> None:
    with pytest.raises(NotEnrolled, match="p2pdist agent --join TOKEN --ca-hash HASH"):
        Identity.load(directory)
    open_key(directory)
    with pytest.raises(NotEnrolled):
        Identity.load(directory)


def test_expiry(authority: Authority, directory: Path) -> None:
    _enrol(authority, directory)
    with pytest.raises(IdentityExpired, match=r"ran out at .* enrol again"):
        Identity.load(directory, NOW + timedelta(days=31))
    with pytest.raises(CredentialError, match=r"isn't valid before .* check the clocks") as caught:
        Identity.load(directory, NOW - timedelta(hours=1))
    assert not isinstance(caught.value, IdentityExpired)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda d: (d / "agent.key").chmod(0o644), r"agent\.key has mode 0644.*chmod 600"),
        (lambda d: d.chmod(0o755), r"identity has mode 0755.*chmod 700"),
        (lambda d: (d / "agent.key").unlink(), r"agent\.key can't be read"),
        (lambda d: (d / "agent.key").write_bytes(b""), r"agent\.key holds no PEM private key"),
        (lambda d: (d / "agent.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\n"), r"agent\.pem holds no PEM"),
        (lambda d: (d / "ca.pem").unlink(), r"ca\.pem can't be read"),
        (
            lambda d: files.write(d / "agent.key", certificates.key_to_pem(Ed25519PrivateKey.generate()), 0o600),
            r"agent\.pem isn't for the key in .*agent\.key",
        ),
    ],
)
def test_load_says_what_is_wrong(authority: Authority, directory: Path, spoil: object, sentence: str) -> None:
    _enrol(authority, directory)
    spoil(directory)  # type: ignore[operator]
    with pytest.raises(CredentialError, match=sentence):
        Identity.load(directory, NOW)


def test_load_refuses_a_certificate_of_another_ca(authority: Authority, directory: Path, tmp_path: Path) -> None:
    _enrol(authority, directory)
    (directory / "ca.pem").write_bytes(Authority.create(tmp_path / "other", "tracker-1").pem)
    with pytest.raises(CredentialError, match=r"isn't an agent's by the CA for .*ca\.pem"):
        Identity.load(directory, NOW)


def test_bad_answer_leaves_the_old_identity(authority: Authority, directory: Path, tmp_path: Path) -> None:
    old = _enrol(authority, directory)
    other = Authority.create(tmp_path / "other", "tracker-1", NOW)
    key = open_key(directory)
    not_ours = authority.issue(PeerKind.AGENT, Ed25519PrivateKey.generate().public_key(), "host-1", now=NOW)
    tracker = authority.issue(PeerKind.TRACKER, key.public_key(), "host-1", now=NOW)
    expired = authority.issue(PeerKind.AGENT, key.public_key(), "host-1", now=NOW, lifetime=timedelta(seconds=-1))
    foreign = other.issue(PeerKind.AGENT, key.public_key(), "host-1", now=NOW)
    for pem in (not_ours.pem, tracker.pem, expired.pem, foreign.pem, b"", b"garbage"):
        with pytest.raises(CredentialError):
            Identity.store(directory, pem, authority.pem, NOW)
    assert Identity.load(directory, NOW) == old


def test_key_that_is_not_ed25519_is_refused(directory: Path) -> None:
    open_key(directory)
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files.write(directory / "agent.key", pem, files.PRIVATE)
    with pytest.raises(CredentialError, match="isn't Ed25519"):
        open_key(directory)


def test_directory_that_others_may_enter_is_refused(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    with pytest.raises(CredentialError, match="chmod 700"):
        open_key(directory)
    assert list(directory.iterdir()) == []
