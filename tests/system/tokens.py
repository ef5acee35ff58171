"""A token server as registries with the Bearer flow have one (distribution spec, "Token Authentication").

Signs JWTs that docker-registry accepts: ES256, the key named by its libtrust fingerprint.
"""

import base64
import datetime
import hashlib
import json
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from tests.system.http_threads import Handler, ServerThread
from tests.system.images import basic_authorization

SERVICE = "registry.test"
ISSUER = "tokens of the p2pdist tests"
_LIFETIME_SECONDS = 300
_COORDINATE_BYTES = 32
LEEWAY_SECONDS = 60


@dataclass(frozen=True)
class Account:
    """Somebody who may use a private repository."""

    user: str
    password: str

    @property
    def authorization(self) -> str:
        return basic_authorization(self.user, self.password)


@dataclass(frozen=True)
class TokenRequest:
    """What a client asked the token server for, and whether it said who it is."""

    scopes: tuple[str, ...]
    account: str
    granted: bool


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer:
    """Gives an account every right, `others` what is said of them, and anybody the right to pull what is `public`."""

    def __init__(self, account: Account, public: Iterable[str] = ()) -> None:
        self.account = account
        self.public = set(public)
        self.others: dict[Account, set[str]] = {}
        self.requests: list[TokenRequest] = []
        self._key = ec.generate_private_key(ec.SECP256R1())

    def serve(self, listener: socket.socket) -> ServerThread:
        """The server as a context; its `url` is the realm of the challenge."""
        return ServerThread(listener, lambda *arguments: _TokenHandler(self, *arguments))

    def write_certificate(self, path: Path) -> None:
        """The registry's `rootcertbundle`: a certificate over the key that signs."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "p2pdist test tokens")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .sign(self._key, hashes.SHA256())
        )
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def token(
        self, access: list[dict[str, Any]], subject: str = "", lifetime_seconds: float = _LIFETIME_SECONDS
    ) -> str:
        """A signed token that grants `access` (distribution spec, "Token Authentication Implementation").

        docker-registry takes one for LEEWAY_SECONDS beyond its lifetime.
        """
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": subject,
            "aud": SERVICE,
            "exp": now + int(lifetime_seconds),
            "nbf": now - 600,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        header = {"typ": "JWT", "alg": "ES256", "kid": self._key_id()}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64url(r.to_bytes(_COORDINATE_BYTES, 'big') + s.to_bytes(_COORDINATE_BYTES, 'big'))}"

    def push_authorization(self, repository: str) -> str:
        """The header with which the tests push into `repository`."""
        access = [{"type": "repository", "name": repository, "actions": ["pull", "push"]}]
        return f"Bearer {self.token(access, self.account.user)}"

    def pull_token(self, repository: str, lifetime_seconds: float = _LIFETIME_SECONDS) -> str:
        """A token that reads `repository`."""
        access = [{"type": "repository", "name": repository, "actions": ["pull"]}]
        return self.token(access, "somebody", lifetime_seconds)

    def _key_id(self) -> str:
        public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        text = base64.b32encode(hashlib.sha256(public).digest()[:30]).decode()
        return ":".join(text[start : start + 4] for start in range(0, len(text), 4))

    def grant(self, scopes: list[str], authorization: str) -> dict[str, Any] | None:
        """The answer to a request for `scopes`; None for a wrong password."""
        known = authorization == self.account.authorization
        other = next((account for account in self.others if account.authorization == authorization), None)
        if authorization and not known and other is None:
            self.requests.append(TokenRequest(tuple(scopes), "somebody else", granted=False))
            return None
        access = []
        for scope in " ".join(scopes).split():
            kind, name, actions = scope.split(":", 2)
            if known or name in self.public or (other is not None and name in self.others[other]):
                allowed = [action for action in actions.split(",") if known or action == "pull"]
                access.append({"type": kind, "name": name, "actions": allowed})
        subject = self.account.user if known else other.user if other is not None else ""
        self.requests.append(TokenRequest(tuple(scopes), subject, granted=bool(access)))
        return {"token": self.token(access, subject), "expires_in": _LIFETIME_SECONDS}


class _TokenHandler(Handler):
    def __init__(self, tokens: TokenServer, *arguments: Any) -> None:
        self._tokens = tokens
        super().__init__(*arguments)

    def do_POST(self) -> None:  # noqa: N802 (http.server looks for this name)
        """No OAuth2 here: containerd, which tries it first, asks by GET then."""
        self.answer(405, b"{}")

    def respond(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        answer = self._tokens.grant(query.get("scope", []), self.headers.get("Authorization", ""))
        if answer is None:
            self.answer(401, b'{"details": "wrong password"}')
        else:
            self.answer(200, json.dumps(answer).encode())
