import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.http.ranges import ByteRange, RangeNotSatisfiable, parse_range

SIZES = st.integers(min_value=0, max_value=1 << 42)
POSITIONS = st.integers(min_value=0, max_value=1 << 43)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", ByteRange(0, 1)),
        ("bytes=0-99", ByteRange(0, 100)),
        ("bytes=10-19", ByteRange(10, 20)),
        ("bytes=10-1000", ByteRange(10, 100)),
        ("bytes=99-", ByteRange(99, 100)),
        ("bytes=0-", ByteRange(0, 100)),
        ("bytes=-1", ByteRange(99, 100)),
        ("bytes=-1000", ByteRange(0, 100)),
        ("BYTES=1-2", ByteRange(1, 3)),
        ("bytes= 1-2 ", ByteRange(1, 3)),
        ("bytes=,1-2,", ByteRange(1, 3)),
        ("bytes=0000000000000000000000001-2", ByteRange(1, 3)),
        ("bytes=1-" + "9" * 5000, ByteRange(1, 100)),
    ],
)
def test_one_satisfiable_range(header: str, expected: ByteRange) -> None:
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5",
        "bytes=5-4",
        "bytes=a-b",
        "bytes=+1-2",
        "bytes=1 -2",
        "bytes=1-2-3",
        "bytes=٣-٤",
        "items=0-5",
        "0-5",
        "bytes=0-1,5-6",
        "bytes=0-1, -5",
    ],
)
def test_ignored(header: str | None) -> None:
    assert parse_range(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=" + "9" * 5000 + "-"])
def test_not_satisfiable(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_range(header, 100)
    assert caught.value.http_status == 416
    assert caught.value.content_range == "bytes */100"


def test_the_beginning_of_nothing_is_the_whole() -> None:
    assert parse_range("bytes=0-", 0) is None
    assert parse_range("bytes=0-5", 0) is None
    assert parse_range("bytes=-5", 0) is None
    with pytest.raises(RangeNotSatisfiable):
        parse_range("bytes=1-", 0)


@given(SIZES, POSITIONS, POSITIONS)
def test_closed_range_is_what_slicing_gives(size: int, first: int, last: int) -> None:
    expected = range(size)[first : last + 1]
    if last < first or (size == 0 and first == 0):
        assert parse_range(f"bytes={first}-{last}", size) is None
    elif not expected:
        with pytest.raises(RangeNotSatisfiable):
            parse_range(f"bytes={first}-{last}", size)
    else:
        found = parse_range(f"bytes={first}-{last}", size)
        assert found == ByteRange(expected.start, expected.stop)
        assert found.content_range(size) == f"bytes {expected[0]}-{expected[-1]}/{size}"
        assert found.length == len(expected)


@given(SIZES.filter(bool), POSITIONS.filter(bool))
def test_suffix_is_what_slicing_gives(size: int, suffix: int) -> None:
    expected = range(size)[-suffix:]
    assert parse_range(f"bytes=-{suffix}", size) == ByteRange(expected.start, expected.stop)


@given(st.one_of(st.text(), st.text("bytes=0123456789-, \t").map("bytes={}".format)), st.integers(0, 50))
def test_nothing_else_happens_whatever_the_text(header: str, size: int) -> None:
    try:
        found = parse_range(header, size)
    except RangeNotSatisfiable:
        return
    assert found is None or 0 <= found.start < found.end <= size
