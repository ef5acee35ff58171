import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.http.ranges import (
    MOST_RANGES,
    ByteRange,
    RangeNotSatisfiable,
    Ranges,
    RangeSpec,
    parse_range,
    parse_ranges,
)

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


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=5-6,\t0-1 ,, 90-", [(5, 7), (0, 2), (90, 100)]),
        ("bytes=1-5,3-8", [(1, 6), (3, 9)]),
        ("bytes=5-6,100-200,7-7", [(5, 7), (7, 8)]),
        ("bytes=0-49,50-99", [(0, 50), (50, 100)]),
    ],
)
def test_several_keep_their_order_and_none_is_joined_or_sorted(header: str, expected: list[tuple[int, int]]) -> None:
    ranges = parse_ranges(header)
    assert ranges is not None
    assert ranges.resolve(100) == [ByteRange(*each) for each in expected]
    assert not ranges.open_ended


def test_hundreds_in_a_field_of_five_kibibytes() -> None:
    header = "bytes=" + ",".join(f"{at * 100_000}-{at * 100_000 + 777}" for at in range(300))
    assert len(header) > 5000
    ranges = parse_ranges(header)
    assert ranges is not None
    parts = ranges.resolve(300 * 100_000)
    assert parts is not None
    assert [part.length for part in parts] == [778] * 300


def test_more_than_the_whole_is_sent_whole() -> None:
    ranges = parse_ranges("bytes=0-,0-0")
    assert ranges is not None
    assert ranges.resolve(100) is None
    many = ",".join("0-0" for _ in range(MOST_RANGES))
    assert parse_ranges(f"bytes={many}") is not None
    assert parse_ranges(f"bytes={many},0-0") is None
    assert parse_ranges("bytes=" + "," * 30_000) is None


def test_one_bad_range_spoils_all() -> None:
    assert parse_ranges("bytes=0-1,x") is None
    assert parse_ranges("bytes=0-1,6-5") is None


def test_all_outside_is_not_satisfiable() -> None:
    ranges = parse_ranges("bytes=100-,200-300,-0")
    assert ranges is not None
    with pytest.raises(RangeNotSatisfiable, match="bytes=100-,200-300,-0"):
        ranges.resolve(100)


@pytest.mark.parametrize(
    ("header", "open_ended"),
    [("bytes=0-", True), ("bytes=7-", True), ("bytes=0-5", False), ("bytes=-5", False), ("bytes=0-,5-", False)],
)
def test_open_ended_is_one_range_to_the_end(header: str, open_ended: bool) -> None:
    ranges = parse_ranges(header)
    assert ranges is not None
    assert ranges.open_ended is open_ended


SPECS = st.one_of(
    st.builds(RangeSpec, st.integers(0, 60), st.none()),
    st.builds(RangeSpec, st.none(), st.integers(0, 60)),
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: RangeSpec(min(pair), max(pair))),
)


@given(st.lists(SPECS, min_size=1, max_size=12).map(tuple), st.integers(0, 50))
def test_what_is_asked_for_is_what_slicing_gives(specs: tuple[RangeSpec, ...], size: int) -> None:
    ranges = parse_ranges("bytes=" + ", ".join(map(str, specs)))
    assert ranges == Ranges(specs)

    def sliced(spec: RangeSpec) -> list[int]:
        if spec.first is None:
            return list(range(size))[-spec.last :] if spec.last else []
        return list(range(size))[spec.first : None if spec.last is None else spec.last + 1]

    expected = [positions for positions in map(sliced, specs) if positions]
    try:
        parts = ranges.resolve(size)
    except RangeNotSatisfiable:
        assert not expected
        return
    if parts is None:
        assert size == 0 or sum(map(len, expected)) > size
    else:
        assert [list(range(part.start, part.end)) for part in parts] == expected
