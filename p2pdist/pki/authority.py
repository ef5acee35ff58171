"""The tracker's CA on disk, and what it issues.

It owns `ca.key`, `ca.pem`, `server.key` and `server.pem` in one directory of mode 0700. It knows nothing of join
tokens: whoever may have a certificate was decided before (`enrolment.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.pki import certificates, files
from p2pdist.pki.certificates import Validity
from p2pdist.pki.contexts import Credentials
from p2pdist.pki.errors import AuthorityExists, AuthorityMissing, CredentialError, UntrustedPeer
from p2pdist.pki.peers import PeerIdentity, PeerKind, check_name, id_of

AGENT_LIFETIME = timedelta(days=30)
SERVER_LIFETIME = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was just made: for whom, until when, and its PEM."""

    peer: PeerIdentity
    not_after: datetime
    pem: bytes


class Authority:
    """A CA: its certificate and its key. `create` makes one, `load` reads it."""

    def __init__(self, directory: Path, certificate: x509.Certificate, key: Ed25519PrivateKey) -> None:
        self.directory = directory
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, directory: Path, name: str, now: datetime | None = None) -> "Authority":
        """A new CA in `directory`; raises `AuthorityExists` rather than touch one that is there."""
        files.make_private_directory(directory)
        if cls.present(directory):
            raise AuthorityExists(f"there is a CA in {directory} already; it stays as it is")
        key = Ed25519PrivateKey.generate()
        certificate = certificates.make_authority(key, name, now or certificates.utc_now())
        if not files.write_new(directory / "ca.key", certificates.key_to_pem(key), files.PRIVATE):
            raise AuthorityExists(f"another process has just made a CA in {directory}; it stays as it is")
        if not files.write_new(directory / "ca.pem", certificates.to_pem(certificate)):
            raise AuthorityExists(f"another process has just written {directory / 'ca.pem'}; it stays as it is")
        return cls(directory, certificate, key)

    @classmethod
    def load(cls, directory: Path) -> "Authority":
        """The CA in `directory`; raises `AuthorityMissing`, or `CredentialError` that names the file and what to do."""
        certificate_path, key_path = directory / "ca.pem", directory / "ca.key"
        if not cls.present(directory):
            raise AuthorityMissing(f"there is no CA in {directory}; make one with: p2pdist pki init")
        for path, other in ((certificate_path, key_path), (key_path, certificate_path)):
            if not path.exists():
                raise CredentialError(
                    f"{path} is missing beside {other}: put it back from a backup, or, if no agent was ever enrolled,"
                    f" remove {other} and run: p2pdist pki init"
                )
        key = certificates.parse_key(files.read(key_path, private=True), str(key_path))
        certificate = certificates.parse_certificate(files.read(certificate_path), str(certificate_path))
        if certificates.public_key_of(certificate) != key.public_key():
            raise CredentialError(
                f"{certificate_path} and {key_path} don't belong together: restore both from a backup"
            )
        return cls(directory, certificate, key)

    @staticmethod
    def present(directory: Path) -> bool:
        """Whether there is a CA, or a part of one, in `directory`."""
        return (directory / "ca.key").exists() or (directory / "ca.pem").exists()

    @property
    def pem(self) -> bytes:
        """The CA certificate as PEM, for agents to store."""
        return certificates.to_pem(self.certificate)

    @property
    def der(self) -> bytes:
        """The CA certificate as DER, for the first frame of an enrolment."""
        return certificates.to_der(self.certificate)

    @property
    def ca_hash(self) -> str:
        """What agents pin: `sha256:<hex of the CA certificate's DER>`."""
        return str(certificates.hash_of(self.der))

    @property
    def validity(self) -> Validity:
        """How long the CA certificate holds."""
        return Validity.of(self.certificate)

    def issue(
        self,
        kind: PeerKind,
        public_key: Ed25519PublicKey,
        name: str,
        names: Sequence[str] = (),
        *,
        lifetime: timedelta = AGENT_LIFETIME,
        now: datetime | None = None,
    ) -> Issued:
        """A certificate for the holder of `public_key`; `names` are host names and addresses beside the peer's own URI.

        It ends with the CA at the latest; raises `CredentialError` when the CA itself has run out.
        """
        now = now or certificates.utc_now()
        if problem := self.validity.problem(now):
            raise CredentialError(f"the CA certificate {self.directory / 'ca.pem'} {problem}")
        peer = PeerIdentity(kind, id_of(public_key), check_name(name))
        certificate = certificates.make_leaf(
            self.certificate, self._key, public_key, peer, Validity.starting(now, lifetime), names
        )
        return Issued(peer, certificate.not_valid_after_utc, certificates.to_pem(certificate))

    def server_credentials(self, names: Sequence[str] | None = None, now: datetime | None = None) -> Credentials:
        """The tracker's own key and certificate, made or made anew where needed.

        It is needed when there is none, when two thirds of its life are over, when it isn't by this CA or for another
        key, and when `names` (None: whatever it has) aren't those in it. The key stays, and so does the tracker's id.
        Cheap enough to call daily; connections that start after `contexts.reload` use the new certificate.
        """
        now = now or certificates.utc_now()
        credentials = Credentials(
            self.directory / "server.pem", self.directory / "server.key", self.directory / "ca.pem"
        )
        files.make_private_directory(self.directory)
        fresh = certificates.key_to_pem(Ed25519PrivateKey.generate())
        files.write_new(credentials.key, fresh, files.PRIVATE)
        key = certificates.parse_key(files.read(credentials.key, private=True), str(credentials.key))
        current = self._current_server(credentials.certificate)
        held = server_names(current) if current is not None else []
        wanted = list(names) if names else held or ["localhost"]
        if current is None or held != _canonical(wanted) or not self._serves(current, key, now):
            issued = self.issue(
                PeerKind.TRACKER, key.public_key(), _common_name(wanted), wanted, lifetime=SERVER_LIFETIME, now=now
            )
            files.write(credentials.certificate, issued.pem)
        return credentials

    def _current_server(self, path: Path) -> x509.Certificate | None:
        if not path.exists():
            return None
        try:
            return certificates.parse_certificate(files.read(path), str(path))
        except CredentialError:
            return None

    def _serves(self, certificate: x509.Certificate, key: Ed25519PrivateKey, now: datetime) -> bool:
        validity = Validity.of(certificate)
        # A certificate cut short by the CA's end can't be had any longer than it is.
        ends_with_authority = validity.not_after >= self.validity.not_after
        if validity.problem(now) or (now >= validity.renew_after and not ends_with_authority):
            return False
        try:
            certificate.verify_directly_issued_by(self.certificate)
            peer = certificates.peer_of(certificate)
        except (*certificates.UNREADABLE, InvalidSignature, UntrustedPeer):
            return False
        return peer.kind is PeerKind.TRACKER and certificates.public_key_of(certificate) == key.public_key()


def server_names(certificate: x509.Certificate) -> list[str]:
    """The host names and addresses in `certificate`, in its order; none when they can't be read."""
    try:
        entries = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except certificates.UNREADABLE:
        return []
    return [str(entry.value) for entry in entries if isinstance(entry, x509.DNSName | x509.IPAddress)]


def _canonical(names: Sequence[str]) -> list[str]:
    return [str(entry.value) for entry in certificates.alternative_names(names)]


def _common_name(names: Sequence[str]) -> str:
    for name in names:
        try:
            return check_name(name)
        except InvalidInput:
            continue
    return "tracker"


def hash_from_text(text: str) -> Digest:
    """The pinned CA hash that an operator wrote; raises `DigestInvalid` unless it is `sha256:<64 hex digits>`."""
    digest = Digest.parse(text.strip())
    if digest.algorithm != "sha256":
        raise InvalidInput(f"a CA hash is sha256:<64 hex digits>, this one is {text[:140]!r}")
    return digest
