"""The agent's side of the PKI: its key, its certificate and the CA it trusts, in one directory of mode 0700.

`agent.key` is generated here and never leaves; `agent.pem` and `ca.pem` come from the tracker. The key outlives the
certificates: renewing and enrolling again keep it, and with it the agent's id (`peers.py`).
"""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pdist.pki import certificates, files
from p2pdist.pki.certificates import Validity
from p2pdist.pki.contexts import Credentials
from p2pdist.pki.errors import CredentialError, IdentityExpired, NotEnrolled, UntrustedPeer
from p2pdist.pki.peers import PeerIdentity, PeerKind

_ANEW = "enrol again with: p2pdist agent --join TOKEN --ca-hash HASH"


def credentials_in(directory: Path) -> Credentials:
    """The paths of an agent's files."""
    return Credentials(directory / "agent.pem", directory / "agent.key", directory / "ca.pem")


def open_key(directory: Path) -> Ed25519PrivateKey:
    """The agent's key, generated at the first call; raises `CredentialError` if it's damaged or others may read it."""
    files.make_private_directory(directory)
    path = credentials_in(directory).key
    if not path.exists():
        files.write_new(path, certificates.key_to_pem(Ed25519PrivateKey.generate()), files.PRIVATE)
    return certificates.parse_key(files.read(path, private=True), str(path))


@dataclass(frozen=True, slots=True)
class Identity:
    """An agent that is enrolled: who it is, until when, with which files."""

    peer: PeerIdentity
    validity: Validity
    credentials: Credentials
    key: Ed25519PrivateKey = field(compare=False, repr=False)
    ca_hash: str

    @classmethod
    def load(cls, directory: Path, now: datetime | None = None) -> "Identity":
        """The identity in `directory`.

        Raises `NotEnrolled` when there is none, `IdentityExpired` when it has run out (both call for a join token), and
        `CredentialError` for what an operator must mend: damage, a wrong mode, a clock, files that don't match.
        """
        where = credentials_in(directory)
        if not where.certificate.exists():
            raise NotEnrolled(f"there is no certificate in {directory}; {_ANEW}")
        files.check_private(directory)
        key = certificates.parse_key(files.read(where.key, private=True), str(where.key))
        authority = certificates.parse_certificate(files.read(where.ca), str(where.ca))
        certificate = certificates.parse_certificate(files.read(where.certificate), str(where.certificate))
        peer = _check(certificate, authority, key, where)
        validity = Validity.of(certificate)
        problem = validity.problem(now or certificates.utc_now())
        if problem:
            ended = (now or certificates.utc_now()) > validity.not_after
            raise (IdentityExpired if ended else CredentialError)(
                f"the certificate {where.certificate} {problem}" + (f"; {_ANEW}" if ended else "")
            )
        return cls(peer, validity, where, key, str(certificates.hash_of(certificates.to_der(authority))))

    @classmethod
    def store(cls, directory: Path, certificate_pem: bytes, ca_pem: bytes, now: datetime | None = None) -> "Identity":
        """Keep what the tracker issued, for the key that is in `directory`, and load it.

        Everything is checked before a file changes: a bad answer leaves the old identity in place.
        """
        where = credentials_in(directory)
        key = open_key(directory)
        certificate = certificates.parse_certificate(certificate_pem, "the tracker's answer")
        authority = certificates.parse_certificate(ca_pem, "the tracker's answer")
        _check(certificate, authority, key, where)
        if problem := Validity.of(certificate).problem(now or certificates.utc_now()):
            raise CredentialError(f"the certificate that the tracker issued {problem}")
        # The CA first: a crash in between leaves an old certificate that doesn't fit it, which `load` reports.
        files.write(where.ca, certificates.to_pem(authority))
        files.write(where.certificate, certificates.to_pem(certificate))
        return cls.load(directory, now)

    @property
    def renew_after(self) -> datetime:
        """When to ask for the next certificate."""
        return self.validity.renew_after


def _check(
    certificate: x509.Certificate, authority: x509.Certificate, key: Ed25519PrivateKey, where: Credentials
) -> PeerIdentity:
    if certificates.public_key_of(certificate) != key.public_key():
        raise CredentialError(f"the certificate for {where.certificate} isn't for the key in {where.key}; {_ANEW}")
    try:
        certificate.verify_directly_issued_by(authority)
        peer = certificates.peer_of(certificate)
    except (*certificates.UNREADABLE, InvalidSignature, UntrustedPeer) as error:
        raise CredentialError(
            f"the certificate for {where.certificate} isn't an agent's by the CA for {where.ca}; {_ANEW}"
        ) from error
    if peer.kind is not PeerKind.AGENT:
        raise CredentialError(
            f"the certificate for {where.certificate} is one of a {peer.kind}, not of an agent; {_ANEW}"
        )
    return peer
