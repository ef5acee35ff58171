import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput, ProtocolError
from p2pdist.pki.errors import BadSignature, BadVouch, CredentialError, UnknownKey
from p2pdist.pki.peers import id_of
from p2pdist.pki.vouch import (
    MAX_VOUCH_BYTES,
    BlobContext,
    Signer,
    Verifier,
    Vouch,
    key_id_of,
    public_key_from_bytes,
    signer_of,
)

CONTEXT = BlobContext(Digest.of(b"a blob"), 64 << 20, 32 << 10, 7)
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(b"\7" * 32))


def _hashes(count: int, salt: str = "") -> list[bytes]:
    return [hashlib.sha256(f"{salt}{number}".encode()).digest() for number in range(count)]


def _verifier(**options: int) -> Verifier:
    return Verifier({SIGNER.key_id: SIGNER.public_key}, **options)


class _CountingKey:
    """An Ed25519 public key that counts how often it is asked."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key, self.calls = key, 0

    def verify(self, signature: bytes, data: bytes) -> None:
        self.calls += 1
        self._key.verify(signature, data)


@settings(deadline=None)
@given(first=st.integers(0, 2**32 - 64), count=st.integers(1, 64))
def test_every_piece_of_every_batch_holds(first: int, count: int) -> None:
    hashes = _hashes(count)
    verifier = _verifier()
    for number, vouch in enumerate(SIGNER.vouch(CONTEXT, first, hashes)):
        encoded = vouch.encode()
        assert len(encoded) <= MAX_VOUCH_BYTES
        assert Vouch.decode(encoded) == vouch
        assert Vouch.decode(memoryview(bytearray(encoded))) == vouch
        verifier.check(CONTEXT, first + number, hashes[number], vouch)
        verifier.check_encoded(CONTEXT, first + number, hashes[number], encoded)


def test_single_piece_has_no_path() -> None:
    (vouch,) = SIGNER.vouch(CONTEXT, 5, _hashes(1))
    assert vouch.path == ()
    assert len(vouch.encode()) == 77


def test_form_on_the_wire_and_of_what_is_signed() -> None:
    """Written out by hand, so that a change of the form that both ends would share doesn't pass unseen."""
    a, b, c = hashes = _hashes(3)
    vouches = SIGNER.vouch(CONTEXT, 9, hashes)

    def sha256(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    left = sha256(b"\1" + sha256(b"\0" + a) + sha256(b"\0" + b))
    root = sha256(b"\1" + left + sha256(b"\0" + c))
    message = (
        b"p2pdist piece v1"
        + sha256(SIGNER.public_key.public_bytes_raw())[:8]
        + b"\1"
        + sha256(b"a blob")
        + (64 << 20).to_bytes(8, "big")
        + (32 << 10).to_bytes(4, "big")
        + (7).to_bytes(8, "big")
        + (9).to_bytes(4, "big")
        + b"\3"
        + root
    )
    SIGNER.public_key.verify(vouches[0].signature, message)
    assert vouches[1].path == (sha256(b"\0" + a), sha256(b"\0" + c))
    assert vouches[2].path == (left,)
    assert vouches[2].encode() == SIGNER.key_id + b"\0\0\0\x09\3" + vouches[0].signature + left


@pytest.mark.parametrize(
    "other",
    [
        replace(CONTEXT, digest=Digest.of(b"another blob")),
        replace(CONTEXT, digest=Digest.of(b"a blob", "sha512")),
        replace(CONTEXT, size_bytes=CONTEXT.size_bytes + 1),
        replace(CONTEXT, piece_bytes=64 << 10),
        replace(CONTEXT, generation=8),
    ],
)
def test_signature_is_for_one_blob_one_cut_and_one_fetch(other: BlobContext) -> None:
    hashes = _hashes(4)
    vouch = SIGNER.vouch(CONTEXT, 0, hashes)[0]
    verifier = _verifier()
    verifier.check(CONTEXT, 0, hashes[0], vouch)
    with pytest.raises(BadSignature, match="doesn't hold"):
        verifier.check(other, 0, hashes[0], vouch)


@settings(deadline=None)
@given(st.data())
def test_changed_vouches_do_not_hold(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 64))
    number = data.draw(st.integers(0, count - 1))
    hashes = _hashes(count)
    vouch = SIGNER.vouch(CONTEXT, 100, hashes)[number]
    verifier = _verifier()
    if data.draw(st.booleans()):
        verifier.check(CONTEXT, 100 + number, hashes[number], vouch)
    raw = bytearray(vouch.encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProtocolError):
        verifier.check(CONTEXT, 100 + number, hashes[number], Vouch.decode(raw))


@settings(deadline=None)
@given(st.data())
def test_vouch_is_for_one_place(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 64))
    number = data.draw(st.integers(0, count - 1))
    other = data.draw(st.integers(-5, count + 5).filter(lambda index: index != number))
    hashes = _hashes(count)
    vouch = SIGNER.vouch(CONTEXT, 100, hashes)[number]
    verifier = _verifier()
    verifier.check(CONTEXT, 100 + number, hashes[number], vouch)
    with pytest.raises(BadSignature):
        verifier.check(CONTEXT, 100 + other, hashes[number], vouch)


def test_inner_node_does_not_pass_for_a_piece() -> None:
    hashes = _hashes(4)
    vouches = SIGNER.vouch(CONTEXT, 0, hashes)
    inner = hashlib.sha256(b"\1" + vouches[1].path[0] + vouches[0].path[0]).digest()
    for count in (1, 2, 4):
        forged = replace(vouches[0], count=count, path=vouches[0].path[1:])
        with pytest.raises(BadSignature):
            _verifier().check(CONTEXT, 0, inner, forged)


@settings(deadline=None)
@given(st.binary(max_size=MAX_VOUCH_BYTES + 40))
def test_garbage_is_refused(garbage: bytes) -> None:
    verifier = _verifier()
    with pytest.raises(ProtocolError):
        verifier.check_encoded(CONTEXT, 0, bytes(32), garbage)


@settings(deadline=None)
@given(head=st.binary(min_size=12, max_size=12), count=st.integers(0, 255), hashes=st.integers(0, 8))
def test_decoding_is_strict(head: bytes, count: int, hashes: int) -> None:
    raw = head + bytes([count]) + bytes(64 + 32 * hashes)
    first = int.from_bytes(head[8:], "big")
    by_agent, pieces = count >= 128, count % 128
    if 1 <= pieces <= 64 and by_agent <= hashes <= 6 + by_agent and first + pieces <= 2**32:
        assert Vouch.decode(raw).encode() == raw
        with pytest.raises(BadVouch):
            Vouch.decode(raw + b"\0")
    else:
        with pytest.raises(BadVouch):
            Vouch.decode(raw)


def test_one_verification_serves_a_batch() -> None:
    hashes = _hashes(64)
    key = _CountingKey(SIGNER.public_key)
    verifier = Verifier({SIGNER.key_id: key})  # type: ignore[dict-item]
    for number, vouch in enumerate(SIGNER.vouch(CONTEXT, 0, hashes)):
        verifier.check(CONTEXT, number, hashes[number], vouch)
    assert key.calls == 1


def test_spoilt_signature_is_refused_although_the_batch_is_known() -> None:
    """Else we would pass it on, and whoever gets it from us would refuse it and blame us."""
    hashes = _hashes(2)
    good, other = SIGNER.vouch(CONTEXT, 0, hashes)
    verifier = _verifier()
    verifier.check(CONTEXT, 0, hashes[0], good)
    with pytest.raises(BadSignature):
        verifier.check(CONTEXT, 1, hashes[1], replace(other, signature=bytes(64)))
    verifier.check(CONTEXT, 1, hashes[1], other)


def test_memory_is_bounded_and_forgets_the_oldest() -> None:
    key = _CountingKey(SIGNER.public_key)
    verifier = Verifier({SIGNER.key_id: key}, remembered_batches=2)  # type: ignore[dict-item]
    hashes = _hashes(3)
    vouches = [SIGNER.vouch(CONTEXT, number, [hashes[number]])[0] for number in range(3)]
    for number in (0, 1, 2, 2, 1, 0):
        verifier.check(CONTEXT, number, hashes[number], vouches[number])
    assert key.calls == 4


def test_keys_come_and_go() -> None:
    hashes = _hashes(1)
    (vouch,) = SIGNER.vouch(CONTEXT, 0, hashes)
    verifier = Verifier({})
    with pytest.raises(UnknownKey, match=SIGNER.key_id.hex()):
        verifier.check(CONTEXT, 0, hashes[0], vouch)
    assert verifier.add(public_key_from_bytes(SIGNER.public_key.public_bytes_raw())) == SIGNER.key_id
    verifier.check(CONTEXT, 0, hashes[0], vouch)
    verifier.discard(SIGNER.key_id)
    with pytest.raises(UnknownKey):
        verifier.check(CONTEXT, 0, hashes[0], vouch)


def test_signature_of_another_key_under_our_id() -> None:
    hashes = _hashes(1)
    (vouch,) = Signer(Ed25519PrivateKey.generate()).vouch(CONTEXT, 0, hashes)
    with pytest.raises(BadSignature):
        _verifier().check(CONTEXT, 0, hashes[0], replace(vouch, key_id=SIGNER.key_id))


@pytest.mark.parametrize("raw", [b"", b"x" * 31, b"x" * 33])
def test_public_keys_of_the_wrong_length(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match="isn't an Ed25519 public key"):
        public_key_from_bytes(raw)


@pytest.mark.parametrize(
    ("first", "hashes"),
    [(0, []), (0, _hashes(65)), (-1, _hashes(1)), (2**32, _hashes(1)), (2**32 - 1, _hashes(2)), (0, [b"short"])],
)
def test_batches_that_can_not_be_signed(first: int, hashes: list[bytes]) -> None:
    with pytest.raises(InvalidInput):
        SIGNER.vouch(CONTEXT, first, hashes)


@pytest.mark.parametrize("change", [{"size_bytes": -1}, {"piece_bytes": 2**32}, {"generation": 2**64}])
def test_numbers_that_do_not_fit(change: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="out of range"):
        replace(CONTEXT, **change)


def test_last_possible_piece() -> None:
    hashes = _hashes(2)
    vouch = SIGNER.vouch(CONTEXT, 2**32 - 2, hashes)[1]
    _verifier().check(CONTEXT, 2**32 - 1, hashes[1], Vouch.decode(vouch.encode()))


def test_signing_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    directory = tmp_path / "pki"
    before = os.umask(0)
    try:
        signer = Signer.open(directory)
    finally:
        os.umask(before)
    assert Signer.open(directory).key_id == signer.key_id == key_id_of(signer.public_key)
    path = directory / "signing.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(CredentialError, match=r"signing\.key has mode 0644"):
        Signer.open(directory)


class _Everybody:
    def __contains__(self, agent: object) -> bool:
        return True


def test_an_agents_vouch_holds_where_the_agent_may_vouch() -> None:
    agent = Signer(Ed25519PrivateKey.from_private_bytes(b"\3" * 32), agent=True)
    name = id_of(agent.public_key)
    hashes = _hashes(3)
    verifier = _verifier()
    for number, vouch in enumerate(agent.vouch(CONTEXT, 9, hashes)):
        encoded = vouch.encode()
        assert Vouch.decode(encoded) == vouch
        assert signer_of(encoded) == name
        verifier.check(CONTEXT, 9 + number, hashes[number], vouch, {name})
        verifier.check_encoded(CONTEXT, 9 + number, hashes[number], encoded, {name})
        # Also when the batch is remembered: who may vouch is another question than whether it holds.
        for agents in (frozenset[str](), {"another"}):
            with pytest.raises(UnknownKey):
                verifier.check_encoded(CONTEXT, 9 + number, hashes[number], encoded, agents)
        with pytest.raises(BadSignature):
            verifier.check(CONTEXT, 9 + number, hashes[number - 1], vouch, {name})


def test_a_shown_key_is_the_one_that_signed() -> None:
    agent = Signer(Ed25519PrivateKey.from_private_bytes(b"\3" * 32), agent=True)
    (vouch,) = agent.vouch(CONTEXT, 0, _hashes(1))
    other = Signer(Ed25519PrivateKey.from_private_bytes(b"\4" * 32), agent=True)
    shown = other.public_key.public_bytes_raw()
    with pytest.raises(UnknownKey):
        _verifier().check(CONTEXT, 0, _hashes(1)[0], replace(vouch, public_key=shown), _Everybody())
    with pytest.raises(BadSignature):
        _verifier().check(
            CONTEXT, 0, _hashes(1)[0], replace(vouch, public_key=shown, key_id=other.key_id), _Everybody()
        )


def test_a_trackers_vouch_names_no_agent() -> None:
    (vouch, *_) = SIGNER.vouch(CONTEXT, 0, _hashes(64))
    assert signer_of(vouch.encode()) == ""
    assert signer_of(b"") == ""
