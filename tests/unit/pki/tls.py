"""Two ends of a TLS connection over a real socket, and what each of them saw."""

import socket
import ssl
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from p2pdist.pki import certificates, files
from p2pdist.pki.authority import Authority
from p2pdist.pki.contexts import Credentials, explain, peer_identity
from p2pdist.pki.peers import PeerIdentity, PeerKind

NOW = datetime.now(UTC).replace(microsecond=0)
_TIMEOUT_SECONDS = 10


@dataclass
class End:
    """What one end saw: the peer, or why there was none."""

    peer: PeerIdentity | None = None
    leaf: bytes | None = None
    received: bytes = b""
    refusal: str | None = None
    error: Exception | None = field(default=None, repr=False)


def credentials(
    authority: Authority,
    directory: Path,
    kind: PeerKind = PeerKind.AGENT,
    *,
    issued_at: datetime = NOW,
    lifetime: timedelta = timedelta(days=30),
    name: str = "host-1",
) -> Credentials:
    """A fresh key and a certificate of `authority` for it, as files in `directory`."""
    key = Ed25519PrivateKey.generate()
    issued = authority.issue(kind, key.public_key(), name, lifetime=lifetime, now=issued_at)
    directory.mkdir(mode=0o700)
    files.write(directory / "leaf.key", certificates.key_to_pem(key), files.PRIVATE)
    files.write(directory / "leaf.pem", issued.pem)
    files.write(directory / "ca.pem", authority.pem)
    return Credentials(directory / "leaf.pem", directory / "leaf.key", directory / "ca.pem")


def odd_leaf(
    authority: Authority, directory: Path, names: list[x509.GeneralName], use: x509.ObjectIdentifier
) -> Credentials:
    """A certificate of the CA that it would never issue."""
    key = Ed25519PrivateKey.generate()
    signer = certificates.parse_key((authority.directory / "ca.key").read_bytes(), "ca.key")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(minutes=5))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, None)
    )
    directory.mkdir(mode=0o700)
    files.write(directory / "leaf.key", certificates.key_to_pem(key), files.PRIVATE)
    files.write(directory / "leaf.pem", certificates.to_pem(certificate))
    return Credentials(directory / "leaf.pem", directory / "leaf.key", authority.directory / "ca.pem")


def handshake(server: ssl.SSLContext | None, client: ssl.SSLContext | None) -> tuple[End, End]:
    """Connect the two and send a few bytes each way; None speaks no TLS. Returns what server and client saw."""
    ends = End(), End()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(_TIMEOUT_SECONDS)
        thread = threading.Thread(target=lambda: _talk(listener.accept()[0], server, True, ends[0]))
        thread.start()
        _talk(socket.create_connection(listener.getsockname(), _TIMEOUT_SECONDS), client, False, ends[1])
        thread.join(_TIMEOUT_SECONDS)
        assert not thread.is_alive()
    return ends


def _talk(raw: socket.socket, context: ssl.SSLContext | None, server_side: bool, end: End) -> None:
    with raw:
        raw.settimeout(_TIMEOUT_SECONDS)
        try:
            if context is None:
                raw.sendall(b"this is no TLS at all" * 10)
                return
            with context.wrap_socket(raw, server_side=server_side) as connection:
                end.leaf = connection.getpeercert(binary_form=True)
                end.peer = peer_identity(connection)
                # The client listens first, as on a control connection: what it had written before the server refused
                # it would make the server close by reset, and a reset overtakes the alert that tells why.
                if server_side:
                    connection.sendall(b"ping")
                end.received = connection.recv(4)
                if not server_side:
                    connection.sendall(b"ping")
        except ssl.SSLError as error:
            end.error, end.refusal = error, explain(error)
        except Exception as error:
            end.error = error
