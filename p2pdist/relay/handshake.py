"""Who is at the other end of a data connection. Sans-IO.

Both ends send a hello (version, capabilities, node, nonce) and then a proof: an HMAC over both hellos with the relay
secret that the tracker gives to leased nodes over their control connections. Nothing else is read before the proof
held. On a TLS connection the node's certificate must name the same node as its hello. The secret shows that a peer
belongs to the fleet, not which member it is; on TLS connections the certificate shows that too, and what travels is
vouched for by the tracker's signature in any case.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable

import msgspec

from p2pdist.core.errors import ProtocolError
from p2pdist.relay.frames import Kind, encode

VERSION = 1
CAPABILITIES = 0
_NONCE_BYTES = 32
_LABEL = b"p2pdist relay v1"


class NotLeased(ProtocolError):
    """The peer's name isn't in the tracker's table; it may be there in a moment."""


class Hello(msgspec.Struct, frozen=True):
    """The first frame of either end."""

    version: int
    capabilities: int
    node: str
    nonce: bytes


class Handshake:
    """One end of a handshake: give it the peer's frames, send what it returns, until `peer` names who proved itself."""

    def __init__(self, me: str, secrets_known: list[bytes], dialled: bool, accept: Callable[[str], bool]) -> None:
        self.peer: str | None = None
        self._dialled = dialled
        self._secrets = secrets_known
        self._accept = accept
        self._mine = Hello(VERSION, CAPABILITIES, me, secrets.token_bytes(_NONCE_BYTES))
        self._theirs: Hello | None = None

    def hello(self) -> bytes:
        """The frame to send first."""
        return encode(Kind.HELLO, msgspec.msgpack.encode(self._mine))

    def receive(self, kind: Kind, meta: memoryview) -> bytes:
        """What to send in answer to the peer's frame; raises `ProtocolError` when the peer doesn't belong here."""
        if kind is Kind.HELLO and self._theirs is None:
            try:
                theirs = msgspec.msgpack.decode(meta, type=Hello)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise ProtocolError(f"a relay hello that isn't one: {error}") from error
            if theirs.version != VERSION:
                raise ProtocolError(f"the peer speaks relay version {theirs.version}, we speak {VERSION}")
            if len(theirs.nonce) != _NONCE_BYTES or len(theirs.node) > 128:
                raise ProtocolError("a relay hello with a nonce or name of the wrong length")
            if not self._accept(theirs.node):
                raise NotLeased(f"{theirs.node!r} holds no lease of our tracker")
            self._theirs = theirs
            return encode(Kind.PROOF, self._proof(self._secrets[0], by_dialler=self._dialled))
        if kind is Kind.PROOF and self._theirs is not None:
            expected = (self._proof(secret, by_dialler=not self._dialled) for secret in self._secrets)
            if not any(hmac.compare_digest(proof, bytes(meta)) for proof in expected):
                raise ProtocolError(f"{self._theirs.node} doesn't know the relay secret")
            self.peer = self._theirs.node
            return b""
        raise ProtocolError(f"a frame of kind {kind.name} before the handshake was done")

    def _proof(self, secret: bytes, by_dialler: bool) -> bytes:
        assert self._theirs is not None
        dialler, other = (self._mine, self._theirs) if self._dialled else (self._theirs, self._mine)
        words = (_LABEL, b"dialler" if by_dialler else b"listener", *map(msgspec.msgpack.encode, (dialler, other)))
        return hmac.new(secret, b"".join(hashlib.sha256(word).digest() for word in words), hashlib.sha256).digest()
