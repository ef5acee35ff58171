import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from p2pdist.core.errors import InvalidInput
from p2pdist.core.pieces import (
    BLOCK_BYTES,
    MAX_BLOB_BYTES,
    MAX_PIECE_BYTES,
    MIN_PIECE_BYTES,
    PieceLayout,
    PieceSet,
    choose_piece_length,
    merkle_root,
    piece_hash,
    pieces_root,
)

piece_lengths = st.integers(14, 22).map(lambda power: 1 << power)
layouts = st.builds(PieceLayout, st.integers(0, MAX_BLOB_BYTES), piece_lengths)


@st.composite
def sets(draw: st.DrawFn) -> tuple[int, set[int]]:
    count = draw(st.integers(0, 70))
    return count, draw(st.sets(st.integers(0, count - 1))) if count else set()


# Layout


@given(layouts, st.data())
def test_pieces_cover_the_blob_once(layout: PieceLayout, data: st.DataObject) -> None:
    if not layout.count:
        assert layout.size_bytes == 0
        return
    last = layout.count - 1
    assert layout.offset(last) + layout.length(last) == layout.size_bytes
    assert 1 <= layout.length(last) <= layout.piece_bytes
    index = data.draw(st.integers(0, last))
    if index < last:
        assert layout.length(index) == layout.piece_bytes
        assert layout.offset(index + 1) == layout.offset(index) + layout.length(index)
    byte = data.draw(st.integers(0, layout.size_bytes - 1))
    holder = layout.index_at(byte)
    assert layout.offset(holder) <= byte < layout.offset(holder) + layout.length(holder)


@given(layouts, st.integers())
def test_a_piece_that_isnt_there_has_no_length(layout: PieceLayout, index: int) -> None:
    if 0 <= index < layout.count:
        assert layout.length(index) > 0
    else:
        with pytest.raises(InvalidInput, match=f"piece {index} of a blob that has {layout.count}"):
            layout.length(index)


@pytest.mark.parametrize(
    ("size_bytes", "piece_bytes"),
    [
        (-1, MIN_PIECE_BYTES),
        (MAX_BLOB_BYTES + 1, MIN_PIECE_BYTES),
        (1, 0),
        (1, BLOCK_BYTES // 2),
        (1, 3 * BLOCK_BYTES),
        (1, 2 * MAX_PIECE_BYTES),
    ],
)
def test_impossible_layouts_are_refused(size_bytes: int, piece_bytes: int) -> None:
    with pytest.raises(InvalidInput):
        PieceLayout(size_bytes, piece_bytes)


@given(st.integers(0, MAX_BLOB_BYTES))
def test_the_chosen_length_gives_about_two_thousand_pieces(size_bytes: int) -> None:
    layout = PieceLayout.for_size(size_bytes)
    assert layout.piece_bytes == choose_piece_length(size_bytes)
    if layout.piece_bytes < MAX_PIECE_BYTES:
        assert layout.count <= 3000
    if layout.piece_bytes > MIN_PIECE_BYTES:
        assert layout.count >= 1500


# Sets


class SetAgainstSet(RuleBasedStateMachine):
    """A `PieceSet` does what a Python set does."""

    @initialize(count=st.integers(1, 70))
    def begin(self, count: int) -> None:
        self.pieces = PieceSet(count)
        self.model: set[int] = set()

    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, self.pieces.count - 1))
        assert self.pieces.add(index) == (index not in self.model)
        self.model.add(index)

    @rule(data=st.data())
    def add_a_run(self, data: st.DataObject) -> None:
        for index in range(data.draw(st.integers(0, self.pieces.count))):
            self.pieces.add(index)
            self.model.add(index)

    @rule(index=st.integers(-3, 80))
    def discard(self, index: int) -> None:
        self.pieces.discard(index)
        self.model.discard(index)

    @rule(data=st.data())
    def copies_are_apart(self, data: st.DataObject) -> None:
        copy = self.pieces.copy()
        copy.add(data.draw(st.integers(0, self.pieces.count - 1)))
        copy.discard(data.draw(st.integers(0, self.pieces.count - 1)))

    @invariant()
    def same(self) -> None:
        everything = range(self.pieces.count)
        missing = [index for index in everything if index not in self.model]
        assert list(self.pieces) == sorted(self.model)
        assert len(self.pieces) == len(self.model)
        assert self.pieces.missing() == missing
        assert self.pieces.first_missing == (missing or [self.pieces.count])[0]
        assert self.pieces.complete == (not missing)
        for start in everything:
            assert self.pieces.first_missing_from(start) == min(
                (index for index in missing if index >= start), default=self.pieces.count
            )


TestSetAgainstSet = SetAgainstSet.TestCase


@given(sets())
def test_the_bitmap_is_bittorrents(drawn: tuple[int, set[int]]) -> None:
    count, members = drawn
    bitmap = PieceSet(count, members).to_bytes()
    assert {8 * place + bit for place, octet in enumerate(bitmap) for bit in range(8) if octet & 0x80 >> bit} == members
    assert set(PieceSet.from_bytes(count, bitmap)) == members


@given(st.integers(0, 70), st.binary(max_size=10))
def test_a_bitmap_is_read_back_or_refused(count: int, bitmap: bytes) -> None:
    fits = len(bitmap) == -(-count // 8) and not int.from_bytes(bitmap, "big") & ((1 << -count % 8) - 1)
    if fits:
        assert PieceSet.from_bytes(count, bitmap).to_bytes() == bitmap
    else:
        with pytest.raises(InvalidInput, match="a bitmap"):
            PieceSet.from_bytes(count, bitmap)


@pytest.mark.parametrize("index", [-1, 5, 1000])
def test_only_numbers_of_pieces_go_in(index: int) -> None:
    pieces = PieceSet(5)
    with pytest.raises(InvalidInput, match=f"piece {index} of a blob that has 5"):
        pieces.add(index)
    assert index not in pieces
    assert len(pieces) == 0


# Hashes


def test_a_tree_is_padded_with_zeroes() -> None:
    def node(left: bytes, right: bytes) -> bytes:
        return hashlib.sha256(left + right).digest()

    a, b, c, zero = b"a" * 32, b"b" * 32, b"c" * 32, bytes(32)
    assert merkle_root([a], 1) == a
    assert merkle_root([a, b], 2) == node(a, b)
    assert merkle_root([a, b, c], 4) == node(node(a, b), node(c, zero))
    assert merkle_root([a], 4) == node(node(a, zero), node(zero, zero))
    assert merkle_root([a], 2, leaf_height=1) == node(a, node(zero, zero))


@given(st.binary(min_size=1, max_size=5 * BLOCK_BYTES))
def test_the_root_doesnt_depend_on_how_the_blob_is_cut(data: bytes) -> None:
    roots = set()
    for piece_bytes in (BLOCK_BYTES, 2 * BLOCK_BYTES, 4 * BLOCK_BYTES, 8 * BLOCK_BYTES):
        layout = PieceLayout(len(data), piece_bytes)
        pieces = [data[layout.offset(index) :][: layout.length(index)] for index in range(layout.count)]
        hashes = [piece_hash(layout, piece) for piece in pieces]
        if layout.count > 1:
            roots.add(pieces_root(layout, hashes))
        else:
            roots.add(hashes[0])
    assert len(roots) == 1


@pytest.mark.parametrize("size_bytes", [40_000, 100_000])
def test_more_than_a_piece_has_no_hash(size_bytes: int) -> None:
    layout = PieceLayout(size_bytes, 2 * BLOCK_BYTES)
    with pytest.raises(InvalidInput, match="32769 bytes for a piece that has at most 32768"):
        piece_hash(layout, bytes(2 * BLOCK_BYTES + 1))


def test_a_root_needs_every_hash() -> None:
    layout = PieceLayout(100_000, 2 * BLOCK_BYTES)
    with pytest.raises(InvalidInput, match="3 piece hashes for a blob of 4 pieces"):
        pieces_root(layout, [bytes(32)] * 3)
    with pytest.raises(InvalidInput, match="0 piece hashes for a blob of 0 pieces"):
        pieces_root(PieceLayout(0, 2 * BLOCK_BYTES), [])
