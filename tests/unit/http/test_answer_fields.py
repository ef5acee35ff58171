from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.errors import ProtocolError
from p2pdist.http.content_range import ContentRange, parse_content_range
from p2pdist.http.retry_after import parse_retry_after

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


@given(st.integers(0, 1 << 50), st.integers(1, 1 << 50), st.none() | st.integers(0, 1 << 50))
def test_every_range_is_read_back(start: int, length: int, more: int | None) -> None:
    end = start + length
    total = None if more is None else end + more
    value = f"bytes {start}-{end - 1}/{'*' if total is None else total}"
    assert parse_content_range(value) == ContentRange(start, end, total)


@pytest.mark.parametrize(
    "value",
    ["", "bytes", "bytes 0-0", "bytes */5", "bytes 5-4/9", "bytes 0-9/9", "bytes 0-1/x", "items 0-1/2", "bytes -1/2"],
)
def test_refuses_what_isnt_a_range(value: str) -> None:
    with pytest.raises(ProtocolError, match="Content-Range"):
        parse_content_range(value)


@given(st.text(max_size=40))
def test_any_range_is_consistent_or_refused(value: str) -> None:
    try:
        part = parse_content_range(value)
    except ProtocolError:
        return
    assert part.start < part.end
    assert part.total is None or part.end <= part.total


@given(st.integers(-100_000, 100_000))
def test_retry_after_as_a_date(seconds: int) -> None:
    value = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(value, NOW) == max(0, seconds)


@pytest.mark.parametrize(("value", "seconds"), [("0", 0), (" 120 ", 120), ("", None), ("-1", None), ("soon", None)])
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_is_read_or_ignored(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0
