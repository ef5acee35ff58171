from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.agent.slices import (
    AHEAD_BYTES,
    AHEAD_SLICES,
    FIRST_SLICE_BYTES,
    GAP_BYTES,
    MOST_SLICE_BYTES,
    Slices,
)
from p2pdist.core.errors import InvalidInput
from p2pdist.http.ranges import ByteRange

MIB = 1 << 20
PARTS = st.lists(
    st.tuples(st.integers(0, 20 * MIB), st.integers(1, 3 * MIB)).map(lambda pair: ByteRange(pair[0], sum(pair))),
    min_size=1,
    max_size=12,
)


@given(PARTS)
def test_every_byte_that_is_asked_for_is_in_one_slice_of_bounded_length(parts: list[ByteRange]) -> None:
    slices = Slices(parts)
    found: set[ByteRange] = set()
    for part in parts:
        at = part.start
        while at < part.end:
            span = slices.at(at)
            assert span.start <= at < span.end
            assert span.length <= MOST_SLICE_BYTES
            found.add(span)
            at = span.end
    ordered = sorted(found, key=lambda span: span.start)
    assert all(before.end <= after.start for before, after in pairwise(ordered))
    assert slices.wanted_bytes == sum(span.length for span in found)
    asked = len({byte for part in parts for byte in range(part.start // 4096, part.end // 4096 + 1)}) * 4096
    assert slices.wanted_bytes <= asked + GAP_BYTES * len(parts)


@given(PARTS)
def test_what_is_fetched_together_begins_with_what_is_needed_and_is_bounded(parts: list[ByteRange]) -> None:
    slices = Slices(parts)
    for part in parts:
        needed = list(slices.needed_from(part.start))
        assert needed[0] == slices.at(part.start)
        assert len(needed) == len(set(needed)) <= AHEAD_SLICES
        assert sum(span.length for span in needed[2:]) <= AHEAD_BYTES


def test_close_parts_are_one_request_and_far_ones_are_not() -> None:
    near = [ByteRange(0, 10), ByteRange(10 + GAP_BYTES, 20 + GAP_BYTES)]
    assert Slices(near).at(0) == ByteRange(0, 20 + GAP_BYTES)
    far = [ByteRange(0, 10), ByteRange(11 + GAP_BYTES, 20 + GAP_BYTES)]
    assert Slices(far).at(0) == ByteRange(0, 10)
    assert Slices(far).wanted_bytes == 19


def test_a_long_part_begins_with_a_short_slice() -> None:
    slices = Slices([ByteRange(100, 100 + 64 * MIB)])
    lengths, at = [], 100
    while at < 100 + 64 * MIB:
        lengths.append(slices.at(at).length)
        at = slices.at(at).end
    assert lengths[:5] == [FIRST_SLICE_BYTES, MIB, 2 * MIB, 4 * MIB, 4 * MIB]
    assert [span.length for span in slices.needed_from(100)] == [FIRST_SLICE_BYTES, MIB]


def test_slices_come_in_the_order_of_the_parts() -> None:
    parts = [ByteRange(8 * MIB, 8 * MIB + 5), ByteRange(0, 5), ByteRange(4 * MIB, 4 * MIB + 5)]
    assert list(Slices(parts).needed_from(8 * MIB)) == parts
    assert list(Slices(parts).needed_from(2)) == parts[1:]


@pytest.mark.parametrize("offset", [0, 9, 20, 25])
def test_what_nobody_asked_for_is_in_no_slice(offset: int) -> None:
    with pytest.raises(InvalidInput, match="none of the parts"):
        Slices([ByteRange(10, 20)]).at(offset)
