"""X.509 certificates of the fleet (RFC 5280, Ed25519 as in RFC 8410): made and read, no files, no sockets."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.pki.errors import CredentialError
from p2pdist.pki.peers import PeerIdentity

AUTHORITY_LIFETIME = timedelta(days=3650)
CLOCK_SKEW = timedelta(minutes=5)
_BOTH_USES = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
_DNS_NAME = re.compile(r"(?=.{1,253}\Z)(?!-)[A-Za-z0-9_-]{1,63}(\.(?!-)[A-Za-z0-9_-]{1,63})*")

# What reading a certificate that somebody else made can raise: cryptography parses extensions only when asked for.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate holds, both in UTC."""

    not_before: datetime
    not_after: datetime

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "Validity":
        return cls(certificate.not_valid_before_utc, certificate.not_valid_after_utc)

    @classmethod
    def starting(cls, now: datetime, lifetime: timedelta) -> "Validity":
        """`lifetime` from `now`, and a little before `now` for the sake of clocks that are slow."""
        return cls(now - CLOCK_SKEW, now + lifetime)

    @property
    def renew_after(self) -> datetime:
        """When two thirds of the time are over: time to renew, with a third left to get over an outage."""
        return self.not_before + (self.not_after - self.not_before) * 2 / 3

    def problem(self, now: datetime) -> str | None:
        """What is wrong with the time, as the end of a sentence; None when nothing is."""
        if now < self.not_before:
            return f"isn't valid before {format_time(self.not_before)} and it is {format_time(now)}; check the clocks"
        if now > self.not_after:
            return f"ran out at {format_time(self.not_after)} and it is {format_time(now)}"
        return None


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def format_time(time: datetime) -> str:
    """A time for people, in UTC: `2025-01-31 12:00:00Z`."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ")


def alternative_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """The subjectAltName entries for host names and IP addresses; raises `InvalidInput` for what is neither."""
    entries: list[x509.GeneralName] = []
    for name in names:
        try:
            entries.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            if _DNS_NAME.fullmatch(name) is None:
                raise InvalidInput(f"{name[:80]!r} is neither a host name nor an IP address") from None
            entries.append(x509.DNSName(name.lower()))
    return entries


def make_authority(key: Ed25519PrivateKey, name: str, now: datetime) -> x509.Certificate:
    """A CA certificate that signs itself and may sign leaves only."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"p2pdist CA {name}"[:64])])
    return (
        _started(subject, subject, key.public_key(), Validity.starting(now, AUTHORITY_LIFETIME))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, None)
    )


def make_leaf(
    authority: x509.Certificate,
    authority_key: Ed25519PrivateKey,
    public_key: Ed25519PublicKey,
    peer: PeerIdentity,
    validity: Validity,
    names: Sequence[str] = (),
) -> x509.Certificate:
    """A certificate for `peer`, for both ends of TLS; never valid for longer than the CA is."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, peer.name)])
    held = Validity(validity.not_before, min(validity.not_after, authority.not_valid_after_utc))
    alternatives = [x509.UniformResourceIdentifier(peer.uri), *alternative_names(names)]
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    return (
        _started(subject, authority.subject, public_key, held)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(_BOTH_USES, critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(authority_key, None)
    )


def _started(
    subject: x509.Name, issuer: x509.Name, public_key: Ed25519PublicKey, validity: Validity
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def peer_of(certificate: x509.Certificate) -> PeerIdentity:
    """Whom `certificate` names; raises `UntrustedPeer`, or one of `UNREADABLE`."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = common[0].value if common else ""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return PeerIdentity.from_uris(uris, name if isinstance(name, str) else name.decode("latin-1"))


def hash_of(certificate_der: bytes) -> Digest:
    """What operators pin a CA by: the SHA-256 of the certificate's DER."""
    return Digest.of(certificate_der)


def to_der(certificate: x509.Certificate) -> bytes:
    """The certificate as it is hashed and sent."""
    return certificate.public_bytes(Encoding.DER)


def to_pem(certificate: x509.Certificate) -> bytes:
    """The certificate as it is stored."""
    return certificate.public_bytes(Encoding.PEM)


def key_to_pem(key: Ed25519PrivateKey) -> bytes:
    """A private key as it is stored: PKCS #8 without a password, so that only the file's mode protects it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def parse_certificate(pem: bytes, where: str) -> x509.Certificate:
    """The first certificate in `pem`; raises `CredentialError` that names `where`."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except UNREADABLE as error:
        raise CredentialError(f"{where} holds no PEM certificate: {error}") from error


def parse_key(pem: bytes, where: str) -> Ed25519PrivateKey:
    """The Ed25519 key in `pem`; raises `CredentialError` that names `where`, and never quotes the key."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CredentialError(f"{where} holds no PEM private key without a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CredentialError(f"{where} holds a private key that isn't Ed25519")
    return key


def public_key_of(certificate: x509.Certificate) -> Ed25519PublicKey | None:
    """The certificate's public key; None when it isn't Ed25519."""
    key = certificate.public_key()
    return key if isinstance(key, Ed25519PublicKey) else None
