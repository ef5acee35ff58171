"""TLS between trackers and agents: the `ssl` contexts of every kind of connection, and who is at the other end.

TLS 1.3 only. A peer is whoever its certificate's URI says (`peers.py`); host names are not compared, because agents
have none that matter and a tracker may be reached by any. The caller asks `require_peer` right after the handshake, and
does nothing else before.

With TLS 1.3 a client's handshake ends before the server has looked at its certificate: a refusal arrives with the first
read, as an alert. `explain` turns it into a sentence all the same. A client that writes before it has read anything may
miss the alert: a server that closes with bytes unread resets the connection. So let the server speak first.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2pdist.pki import files
from p2pdist.pki.errors import CredentialError, UntrustedPeer
from p2pdist.pki.peers import PeerIdentity, PeerKind


@dataclass(frozen=True, slots=True)
class Credentials:
    """The files that one end of a TLS connection shows and trusts: its certificate, its private key, the CA."""

    certificate: Path
    key: Path
    ca: Path


def tracker_control_server(credentials: Credentials) -> ssl.SSLContext:
    """The tracker's control listener: a client may come without a certificate, to enrol and for nothing else.

    One that shows a certificate must show a good one. `peer_identity` is None for those without.
    """
    return _context(ssl.PROTOCOL_TLS_SERVER, credentials, ssl.CERT_OPTIONAL)


def agent_control_client(credentials: Credentials) -> ssl.SSLContext:
    """An agent's connection to its tracker; follow it with `require_peer(stream, PeerKind.TRACKER)`."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, credentials, ssl.CERT_REQUIRED)


def relay_server(credentials: Credentials) -> ssl.SSLContext:
    """A relay listener: whoever connects shows a certificate of the fleet."""
    return _context(ssl.PROTOCOL_TLS_SERVER, credentials, ssl.CERT_REQUIRED)


def relay_client(credentials: Credentials) -> ssl.SSLContext:
    """A relay connection that we dial: both ends show a certificate of the fleet."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, credentials, ssl.CERT_REQUIRED)


def enrolment_client() -> ssl.SSLContext:
    """The connection of an agent that has no CA yet: it verifies nothing.

    Send nothing over it before `enrolment.verify_tracker` accepted the tracker's CA and certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def reload(context: ssl.SSLContext, credentials: Credentials) -> None:
    """Make `context` show the certificate that is in the file now; connections that stand are not touched."""
    files.check_private(credentials.key)
    try:
        context.load_cert_chain(credentials.certificate, credentials.key)
    except ssl.SSLError as error:
        raise CredentialError(f"{credentials.certificate} with {credentials.key}: {explain(error)}") from error
    except OSError as error:
        raise CredentialError(f"{credentials.certificate} can't be read: {error.strerror}") from error


def _context(protocol: int, credentials: Credentials, mode: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = mode
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        # Connections last for days, so resumption gains nothing; and each one must show its certificate afresh.
        context.num_tickets = 0
    reload(context, credentials)
    try:
        context.load_verify_locations(cadata=files.read(credentials.ca).decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise CredentialError(f"{credentials.ca} holds no PEM certificate") from error
    return context


def peer_identity(connection: Any) -> PeerIdentity | None:
    """Who is at the other end of a verified connection; None when it showed no certificate.

    `connection` has `getpeercert()`: an `ssl.SSLSocket`, `ssl.SSLObject` or `trio.SSLStream`, after its handshake.
    Raises `UntrustedPeer` for a certificate of our CA that isn't one of a tracker or agent.
    """
    certificate = connection.getpeercert()
    if not certificate:
        return None
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    subject = dict(pair for relative in certificate.get("subject", ()) for pair in relative)
    return PeerIdentity.from_uris(uris, subject.get("commonName", ""))


def require_peer(connection: Any, *kinds: PeerKind) -> PeerIdentity:
    """`peer_identity`, which must be of one of `kinds`; raises `UntrustedPeer`."""
    peer = peer_identity(connection)
    wanted = " or ".join(kinds)
    if peer is None:
        raise UntrustedPeer(f"the peer showed no certificate; this connection is for a {wanted} of the fleet")
    if peer.kind not in kinds:
        raise UntrustedPeer(f"the peer is the {peer}; this connection is for a {wanted}")
    return peer


# OpenSSL's X509_V_ERR_* (x509_vfy.h)
_VERIFY_SENTENCES = {
    7: "the peer's certificate was not signed by our CA although it says so",
    9: "the peer's certificate isn't valid yet; check the clocks of both hosts",
    10: "the peer's certificate has expired; it must renew it, or enrol again with a new join token",
    18: "the peer's certificate is by no CA at all; it isn't a member of this fleet",
    19: "the peer's certificate is by another CA; it isn't a member of this fleet",
    20: "the peer's certificate is by another CA; it isn't a member of this fleet",
    26: "the peer's certificate isn't meant for this end of a connection",
}
_REASON_SENTENCES = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer showed no certificate; it must enrol first",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer wants a certificate and we showed none; this host must enrol first",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer doesn't know the CA of our certificate; one of us belongs to another fleet",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer says that our certificate has expired; renew it or enrol again",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer says that our certificate is damaged, or not valid yet; check the clocks",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the peer says that our certificate isn't meant for this use",
    "TLSV1_ALERT_DECRYPT_ERROR": "the peer says that our certificate or handshake has a wrong signature",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer doesn't speak our version of TLS (1.3)",
    "UNSUPPORTED_PROTOCOL": "the peer doesn't speak our version of TLS (1.3)",
    "WRONG_VERSION_NUMBER": "the peer doesn't speak TLS; is it set to insecure, or is this another service's port?",
    "HTTP_REQUEST": "the peer sent a plain HTTP request to a TLS port",
    "UNEXPECTED_EOF_WHILE_READING": "the peer hung up in the middle of TLS",
    "KEY_VALUES_MISMATCH": "the certificate and the private key don't belong together",
}


def explain(error: ssl.SSLError) -> str:
    """What a TLS error means, in a sentence for operators."""
    if isinstance(error, ssl.SSLCertVerificationError):
        sentence = _VERIFY_SENTENCES.get(error.verify_code)
        return sentence or f"the peer's certificate was refused: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError):
        return _REASON_SENTENCES["UNEXPECTED_EOF_WHILE_READING"]
    reason = getattr(error, "reason", None)
    return _REASON_SENTENCES.get(reason or "") or f"TLS failed: {reason or error}"
