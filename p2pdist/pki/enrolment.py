"""How a host that knows only a join token and the CA's hash becomes an agent. No I/O but the tracker's database.

The agent connects with `contexts.enrolment_client`, which verifies nothing, and sends nothing. The tracker's first
frame carries its CA certificate. The agent calls `verify_tracker` with it, with the leaf that the TLS handshake showed
(`getpeercert(binary_form=True)`) and with the pinned hash. TLS 1.3 has proved that the peer holds the leaf's key, the
leaf is by that CA, and the CA is the pinned one: only then do token and CSR leave the host. Whoever sits in between has
no such leaf, so it learns nothing.

The tracker calls `admit` for an enrolment, and `renew` for a renewal, which comes over a connection that the old
certificate authenticated.
"""

import hmac
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2pdist.pki import certificates, revocations, tokens
from p2pdist.pki.authority import AGENT_LIFETIME, Authority, Issued, hash_from_text
from p2pdist.pki.certificates import Validity
from p2pdist.pki.database import Database
from p2pdist.pki.errors import RequestRefused, UntrustedPeer
from p2pdist.pki.peers import PeerIdentity, PeerKind, check_name, id_of

MAX_CERTIFICATE_BYTES = 16 * 1024
MAX_REQUEST_BYTES = 4 * 1024


def verify_tracker(ca_der: bytes, leaf_der: bytes, pinned_hash: str, now: datetime | None = None) -> PeerIdentity:
    """Make sure that the peer is a tracker of the fleet whose CA has `pinned_hash`; say which one.

    Raises `UntrustedPeer` when it isn't, and `DigestInvalid` when the pinned hash has no such form.
    """
    pinned = hash_from_text(pinned_hash)
    if not 0 < len(ca_der) <= MAX_CERTIFICATE_BYTES or not 0 < len(leaf_der) <= MAX_CERTIFICATE_BYTES:
        raise UntrustedPeer(
            f"the tracker's certificates have {len(ca_der)} and {len(leaf_der)} bytes; that can't be right"
        )
    actual = certificates.hash_of(ca_der)
    if not hmac.compare_digest(actual.hex, pinned.hex):
        raise UntrustedPeer(
            f"the tracker's CA has the hash {actual}, not the pinned {pinned}: either the hash is of another fleet, or"
            " somebody stands between this host and the tracker; compare it with: p2pdist pki show"
        )
    now = now or certificates.utc_now()
    try:
        authority, leaf = x509.load_der_x509_certificate(ca_der), x509.load_der_x509_certificate(leaf_der)
        return _verify_leaf(authority, leaf, now)
    except InvalidSignature as error:
        raise UntrustedPeer("the tracker's certificate wasn't signed by its CA") from error
    except certificates.UNREADABLE as error:
        raise UntrustedPeer(f"the tracker's certificate isn't one that its CA issues: {error}") from error


def _verify_leaf(authority: x509.Certificate, leaf: x509.Certificate, now: datetime) -> PeerIdentity:
    if not authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise UntrustedPeer("what the tracker sent as its CA may not sign certificates")
    for what, certificate in (("CA", authority), ("certificate", leaf)):
        if problem := Validity.of(certificate).problem(now):
            raise UntrustedPeer(f"the tracker's {what} {problem}")
    leaf.verify_directly_issued_by(authority)
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.SERVER_AUTH not in uses:
        raise UntrustedPeer("the tracker's certificate isn't meant for a server")
    peer = certificates.peer_of(leaf)
    if peer.kind is not PeerKind.TRACKER:
        raise UntrustedPeer(f"the peer is the {peer}, not a tracker; check the address")
    return peer


def make_csr(key: Ed25519PrivateKey, name: str) -> bytes:
    """A PEM certificate signing request (RFC 2986) for `key`.

    Its subject is for people who look at it; the tracker uses the public key alone.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_name(name))])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, None).public_bytes(Encoding.PEM)


def read_request(csr_pem: bytes) -> Ed25519PublicKey:
    """The public key of a CSR, whose sender proved to hold the private one; raises `RequestRefused`."""
    if len(csr_pem) > MAX_REQUEST_BYTES:
        raise RequestRefused(f"a certificate request of {len(csr_pem)} bytes; at most {MAX_REQUEST_BYTES} are read")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        key = request.public_key()
        signed = request.is_signature_valid
    except certificates.UNREADABLE as error:
        raise RequestRefused("the certificate request can't be read") from error
    if not isinstance(key, Ed25519PublicKey):
        raise RequestRefused("the certificate request is for a key that isn't Ed25519")
    if not signed:
        raise RequestRefused("the certificate request isn't signed with the key that it is for")
    return key


def sign_request(
    authority: Authority,
    csr_pem: bytes,
    *,
    name: str,
    renewing: str | None = None,
    lifetime: timedelta = AGENT_LIFETIME,
    now: datetime | None = None,
) -> Issued:
    """An agent's certificate for the public key in the CSR, and for nothing else that stands in it.

    `renewing` is the id that the connection proved: the key must give the same. Raises `RequestRefused`, `InvalidInput`
    for the name, `CredentialError` when the CA has run out.
    """
    public_key = read_request(csr_pem)
    agent_id = id_of(public_key)
    if renewing is not None and agent_id != renewing:
        raise RequestRefused(f"agent {renewing} asked for a certificate of agent {agent_id}: a new key must enrol anew")
    return authority.issue(PeerKind.AGENT, public_key, name, lifetime=lifetime, now=now)


def admit(
    authority: Authority,
    database: Database,
    *,
    token: str,
    csr_pem: bytes,
    name: str,
    lifetime: timedelta = AGENT_LIFETIME,
    now: datetime | None = None,
) -> Issued:
    """Grant an enrolment: check the request, redeem the token, sign. A request that fails costs the token no use.

    An agent that lost the answer may come again with the same key: that costs no second use. Raises what `sign_request`
    and `tokens.redeem` raise, and `AgentRevoked`. It blocks on the disk: call it in a worker thread.
    """
    now = now or certificates.utc_now()
    issued = sign_request(authority, csr_pem, name=name, lifetime=lifetime, now=now)
    revocations.check(database, issued.peer.id)
    tokens.redeem(database, token, issued.peer.id, now=now.timestamp())
    return issued


def renew(
    authority: Authority,
    database: Database,
    *,
    peer: PeerIdentity,
    csr_pem: bytes,
    name: str,
    lifetime: timedelta = AGENT_LIFETIME,
    now: datetime | None = None,
) -> Issued:
    """Grant the next certificate to `peer`, the agent that the connection proved, for the key that it has.

    Raises what `sign_request` raises, and `AgentRevoked`. It blocks on the disk: call it in a worker thread.
    """
    revocations.check(database, peer.id)
    return sign_request(authority, csr_pem, name=name, renewing=peer.id, lifetime=lifetime, now=now)
