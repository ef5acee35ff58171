from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.pieces import PieceSet


@given(st.integers(1, 50).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)))))
def test_first_missing_from_is_the_next_gap(case: tuple[int, set[int]]) -> None:
    count, members = case
    pieces = PieceSet(count, members)
    for index in range(count + 1):
        assert pieces.first_missing_from(index) == next((i for i in range(index, count) if i not in members), count)


@given(st.sets(st.integers(0, 9)), st.integers(0, 9))
def test_a_copy_is_equal_and_apart(members: set[int], index: int) -> None:
    pieces = PieceSet(10, members)
    copy = pieces.copy()
    assert (list(copy), len(copy), copy.first_missing) == (list(pieces), len(pieces), pieces.first_missing)
    copy.discard(index)
    pieces.add(index)
    assert index in pieces
    assert index not in copy
