"""Vouches: a tracker's (or, in a rescue, an agent's) signature for a piece, or for a batch of successive pieces.

What is signed, in network byte order:

    "p2pdist piece v1"  key id (8)  digest algorithm (1)  digest  blob size (8)  piece length (4)  generation (8)
    first (4)  count (1)  root (32)

A batch is pieces first..first+count-1. `root` is the root of a SHA-256 Merkle tree whose leaves are their piece hashes
(the BEP 52 ones): leaf = sha256(0x00 piece-hash), inner = sha256(0x01 left right), and the last node of a level of odd
width moves up as it is (the tree of RFC 9162, 2.1). With the prefixes no leaf can pass for an inner node, and position
and count, which are signed, fix the length of each path. A piece travels with its own path, so that every piece can be
checked alone, and one signature serves up to 64: signing costs 20 us and verifying 60, a path of six hashes about 5.

An agent that vouches for what it fetched in a rescue puts its public key between signature and path, with the highest
bit of the count set. Its id is the hash of that key (`peers.py`), so who knows the members needs no list of their keys.

`Verifier` remembers batches that it verified. It compares the signature with the remembered one, too: a piece whose
batch is known but that came with a spoilt signature would otherwise be passed on, and the receiver would blame us.

A `Signer` may be shared between threads; a `Verifier` belongs to one.
"""

import hashlib
import struct
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput, ProtocolError
from p2pdist.pki import certificates, files
from p2pdist.pki.errors import BadSignature, BadVouch, UnknownKey
from p2pdist.pki.peers import id_of_bytes

MAX_BATCH = 64
KEY_ID_BYTES = 8
HASH_BYTES = 32
SIGNATURE_BYTES = 64
KEY_BYTES = 32
SIGNING_KEY_FILE = "signing.key"

_CONTEXT = b"p2pdist piece v1"
_ALGORITHMS = {"sha256": 1, "sha512": 2}
_BLOB = struct.Struct(">QIQ")
_BATCH = struct.Struct(">IB")
_HEAD = struct.Struct(">8sIB")
_FIXED_BYTES = _HEAD.size + SIGNATURE_BYTES
_MAX_PATH = (MAX_BATCH - 1).bit_length()
MAX_VOUCH_BYTES = _FIXED_BYTES + KEY_BYTES + _MAX_PATH * HASH_BYTES
_BY_AGENT = 0x80
_MAX_INDEX = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class BlobContext:
    """What a signature is about besides the pieces: the blob, how it is cut, and which fetch of it (`generation`)."""

    digest: Digest
    size_bytes: int
    piece_bytes: int
    generation: int
    encoded: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            numbers = _BLOB.pack(self.size_bytes, self.piece_bytes, self.generation)
        except struct.error as error:
            raise InvalidInput(f"a blob's size, piece length or generation is out of range: {self!r}") from error
        algorithm = bytes([_ALGORITHMS[self.digest.algorithm]])
        object.__setattr__(self, "encoded", algorithm + bytes.fromhex(self.digest.hex) + numbers)


@dataclass(frozen=True, slots=True)
class Vouch:
    """What travels with a piece: who signed which batch, and the piece's path to the batch's root.

    `public_key` is the signer's, raw, when it is an agent; a tracker's key is known.
    """

    key_id: bytes
    first: int
    count: int
    path: tuple[bytes, ...]
    signature: bytes
    public_key: bytes = b""

    def encode(self) -> bytes:
        """Key id (8), first (4), count (1), signature (64), an agent's key (32), then the path."""
        count = self.count | _BY_AGENT if self.public_key else self.count
        return b"".join((_HEAD.pack(self.key_id, self.first, count), self.signature, self.public_key, *self.path))

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> "Vouch":
        """The vouch that fills `data` exactly; raises `BadVouch` for anything else."""
        return cls(*_parsed(bytes(data)))


def signer_of(vouch: bytes) -> str:
    """The id of the agent that a vouch is by; empty for a tracker's, which doesn't name it in full."""
    if len(vouch) < _FIXED_BYTES + KEY_BYTES or not vouch[_HEAD.size - 1] & _BY_AGENT:
        return ""
    return id_of_bytes(vouch[_FIXED_BYTES : _FIXED_BYTES + KEY_BYTES])


def _parsed(raw: bytes) -> tuple[bytes, int, int, tuple[bytes, ...], bytes, bytes]:
    """The fields of an encoded vouch, in their order; raises `BadVouch`."""
    path_at = _FIXED_BYTES
    if len(raw) >= _FIXED_BYTES and raw[_HEAD.size - 1] & _BY_AGENT:
        path_at += KEY_BYTES
    hashes, rest = divmod(len(raw) - path_at, HASH_BYTES)
    if not 0 <= hashes <= _MAX_PATH or rest:
        raise BadVouch(f"a vouch of {len(raw)} bytes; it has {path_at} and up to {_MAX_PATH} hashes of 32")
    key_id, first, count = _HEAD.unpack_from(raw)
    count &= ~_BY_AGENT
    if not 1 <= count <= MAX_BATCH or first + count - 1 > _MAX_INDEX:
        raise BadVouch(f"a vouch for {count} pieces from {first}; a batch has 1 to {MAX_BATCH}")
    path = tuple([raw[i : i + HASH_BYTES] for i in range(path_at, len(raw), HASH_BYTES)])
    return key_id, first, count, path, raw[_HEAD.size : _FIXED_BYTES], raw[_FIXED_BYTES:path_at]


def key_id_of(public_key: Ed25519PublicKey) -> bytes:
    """The 8 bytes that a signature names its key by: the start of the SHA-256 of the raw public key."""
    return hashlib.sha256(public_key.public_bytes_raw()).digest()[:KEY_ID_BYTES]


def public_key_from_bytes(raw: bytes) -> Ed25519PublicKey:
    """The public key that a frame carried as 32 bytes; raises `ProtocolError`."""
    try:
        return Ed25519PublicKey.from_public_bytes(raw)
    except ValueError as error:
        raise ProtocolError(f"a signing key of {len(raw)} bytes isn't an Ed25519 public key") from error


class Signer:
    """Vouches for pieces with one private key; that of an `agent` shows its public key each time."""

    def __init__(self, key: Ed25519PrivateKey, *, agent: bool = False) -> None:
        self._key = key
        self.public_key = key.public_key()
        self._shown = self.public_key.public_bytes_raw() if agent else b""
        self.key_id = key_id_of(self.public_key)

    @classmethod
    def open(cls, directory: Path) -> "Signer":
        """The signer whose key is `signing.key` in `directory`, made with mode 0600 at the first call."""
        files.make_private_directory(directory)
        path = directory / SIGNING_KEY_FILE
        if not path.exists():
            files.write_new(path, certificates.key_to_pem(Ed25519PrivateKey.generate()), files.PRIVATE)
        return cls(certificates.parse_key(files.read(path, private=True), str(path)))

    def vouch(self, context: BlobContext, first: int, hashes: Sequence[bytes]) -> list[Vouch]:
        """A vouch for each of the pieces from `first` on that have these hashes, under one signature."""
        count = len(hashes)
        if not 1 <= count <= MAX_BATCH or not 0 <= first <= _MAX_INDEX + 1 - count:
            raise InvalidInput(f"a batch of {count} pieces from {first}; it has 1 to {MAX_BATCH}")
        if any(len(piece) != HASH_BYTES for piece in hashes):
            raise InvalidInput("a piece hash has 32 bytes")
        root, paths = _tree(hashes)
        signature = self._key.sign(_message(self.key_id, context, first, count, root))
        return [Vouch(self.key_id, first, count, path, signature, self._shown) for path in paths]


def batch_of(key_id: bytes, first: int, hashes: Sequence[bytes], signature: bytes) -> list[Vouch]:
    """The vouches of a batch whose signature is known; whether it holds, a `Verifier` says."""
    return [Vouch(key_id, first, len(hashes), path, signature) for path in _tree(hashes)[1]]


class Verifier:
    """Checks vouches against the keys that were introduced; one verification serves a whole batch.

    `agents`, where it is given, are the ids of those who may vouch besides, with keys that they show.
    """

    def __init__(self, keys: Mapping[bytes, Ed25519PublicKey], *, remembered_batches: int = 4096) -> None:
        self._keys = dict(keys)
        self._limit = remembered_batches
        # What was signed -> its signature, oldest first.
        self._verified: dict[bytes, bytes] = {}

    def add(self, public_key: Ed25519PublicKey) -> bytes:
        """Accept signatures by this key from now on; returns its id."""
        key_id = key_id_of(public_key)
        self._keys[key_id] = public_key
        return key_id

    def discard(self, key_id: bytes) -> None:
        """Accept nothing more by this key."""
        if self._keys.pop(key_id, None) is not None:
            self._verified.clear()

    def check(
        self, context: BlobContext, index: int, piece_hash: bytes, vouch: Vouch, agents: Container[str] = frozenset()
    ) -> None:
        """Make sure that the key's owner vouched for piece `index` of this fetch having this hash.

        Raises `UnknownKey` or `BadSignature`.
        """
        key_id, first, count = vouch.key_id, vouch.first, vouch.count
        signed = (key_id, first, count, vouch.path, vouch.signature, vouch.public_key)
        self._check(context, index, piece_hash, agents, *signed)

    def check_encoded(
        self, context: BlobContext, index: int, piece_hash: bytes, vouch: bytes, agents: Container[str] = frozenset()
    ) -> None:
        """`check` of a vouch as it travels, without making a `Vouch` of it; raises `BadVouch`, too."""
        self._check(context, index, piece_hash, agents, *_parsed(vouch))

    def _check(
        self,
        context: BlobContext,
        index: int,
        piece_hash: bytes,
        agents: Container[str],
        key_id: bytes,
        first: int,
        count: int,
        path: tuple[bytes, ...],
        signature: bytes,
        shown: bytes,
    ) -> None:
        if shown:
            _check_agent(shown, key_id, agents)
        root = _root(index - first, count, piece_hash, path)
        if root is None:
            raise BadSignature(f"a vouch for {count} pieces from {first} doesn't fit piece {index}")
        message = _message(key_id, context, first, count, root)
        if self._verified.get(message) == signature:
            return
        key = public_key_from_bytes(shown) if shown else self._keys.get(key_id)
        if key is None:
            raise UnknownKey(f"piece {index} of {context.digest} is signed with the unknown key {key_id.hex()}")
        try:
            key.verify(signature, message)
        except InvalidSignature as error:
            raise BadSignature(
                f"the signature of piece {index} of {context.digest} by key {key_id.hex()} doesn't hold"
            ) from error
        if len(self._verified) >= self._limit:
            del self._verified[next(iter(self._verified))]
        self._verified[message] = signature


def _check_agent(public_key: bytes, key_id: bytes, agents: Container[str]) -> None:
    """Raise `UnknownKey` unless it is the key of one of `agents`."""
    agent = id_of_bytes(public_key)
    if bytes.fromhex(agent)[:KEY_ID_BYTES] != key_id or agent not in agents:
        raise UnknownKey(f"the agent {agent} vouches for a piece, but may not")


def _message(key_id: bytes, context: BlobContext, first: int, count: int, root: bytes) -> bytes:
    return b"".join((_CONTEXT, key_id, context.encoded, _BATCH.pack(first, count), root))


def _leaf(piece_hash: bytes) -> bytes:
    return hashlib.sha256(b"\0" + piece_hash).digest()


def _inner(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _tree(hashes: Sequence[bytes]) -> tuple[bytes, list[tuple[bytes, ...]]]:
    """The root over `hashes` and the path of each."""
    level = [_leaf(piece) for piece in hashes]
    paths: list[list[bytes]] = [[] for _ in hashes]
    height = 0
    while len(level) > 1:
        for index, path in enumerate(paths):
            sibling = (index >> height) ^ 1
            if sibling < len(level):
                path.append(level[sibling])
        level = [_inner(*level[i : i + 2]) if i + 1 < len(level) else level[i] for i in range(0, len(level), 2)]
        height += 1
    return level[0], [tuple(path) for path in paths]


def _root(position: int, count: int, piece_hash: bytes, path: tuple[bytes, ...]) -> bytes | None:
    """The root that `path` leads to; None when no batch of `count` has such a path at `position`."""
    if not 0 <= position < count:
        return None
    sha256 = hashlib.sha256
    node = sha256(b"\0" + piece_hash).digest()
    used = 0
    last = count - 1
    while last:
        # The last node of a level of odd width has no sibling and moves up.
        if position < last or position & 1:
            if used == len(path):
                return None
            sibling = path[used]
            used += 1
            node = sha256(b"\1" + sibling + node if position & 1 else b"\1" + node + sibling).digest()
        position >>= 1
        last >>= 1
    return node if used == len(path) else None
