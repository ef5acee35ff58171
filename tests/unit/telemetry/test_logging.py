import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.telemetry.logging import get_logger, setup

_DIGEST = Digest.of(b"x")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("p2pdist")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])


def _lines(log: Callable[[], None], level: str = "debug", format: str = "text") -> list[str]:
    stream = io.StringIO()
    setup(level, format, stream)
    log()
    text = stream.getvalue()
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


def _tail(**fields: object) -> str:
    """The fields of one event as text."""
    (line,) = _lines(lambda: get_logger("agent.pulls").info("happened", **fields))
    return line.split(" happened", 1)[1].lstrip()


def test_text_line() -> None:
    (line,) = _lines(lambda: get_logger("p2pdist.agent.pulls").warning("pull_slow", digest=_DIGEST, seconds=1.5))
    time, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert abs((datetime.fromisoformat(time) - datetime.now(UTC)).total_seconds()) < 60
    assert rest == f"warning agent.pulls pull_slow digest={_DIGEST} seconds=1.5"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x"', r'"say \"x\""'),
        ("back\\slash", r'"back\\slash"'),
        ("line\nbreak\r\t", r'"line\nbreak\r\t"'),
        ("\x1b[31mred\x7f\x85\u2028\u202e", r'"\u001b[31mred\u007f\u0085\u2028\u202e"'),
        ("\ud800", r'"\ud800"'),
        ("Grüße", "Grüße"),
        (None, "null"),
        (True, "true"),
        (7, "7"),
        (1 / 3, "0.333333"),
        (float("nan"), "nan"),
        (b"\1\xff", "01ff"),
        (Path("/a/b"), "/a/b"),
        (_DIGEST, str(_DIGEST)),
        (InvalidInput("no such thing"), '"InvalidInput: no such thing"'),
        ([1, "b c"], r'"[1, \"b c\"]"'),
        ({"a": _DIGEST}, f'"{{\\"a\\": \\"{_DIGEST}\\"}}"'),
    ],
)
def test_values_as_text(value: object, text: str) -> None:
    assert _tail(value=value) == f"value={text}"


@pytest.mark.parametrize("name", ["token", "join_token", "Password", "client_secret", "Authorization", "TOKEN"])
def test_fields_that_name_a_credential_are_hidden(name: str) -> None:
    assert _tail(**{name: "abc123"}) == f"{name}=***"
    assert "abc123" not in _tail(request={name: "abc123", "inner": [{name: "abc123"}]})
    (line,) = _lines(lambda: get_logger("x").info("e", **{name: {"deep": "abc123"}}), format="json")
    assert json.loads(line)[name] == "***"


def test_credentials_inside_values_are_hidden() -> None:
    assert _tail(url="https://user:pass@host/path") == "url=https://***@host/path"
    assert _tail(error=ValueError("p2pjoin_abc-DEF_1 is wrong")) == 'error="ValueError: *** is wrong"'
    (line,) = _lines(lambda: get_logger("x").info("got p2pjoin_abc"))
    assert line.endswith('"got ***"')


def test_json_line() -> None:
    log = get_logger("tracker")
    (line,) = _lines(
        lambda: log.error("e", digest=_DIGEST, n=1, f=0.5, none=None, many={"a": [True]}, event="x", time="y"),
        format="json",
    )
    told = json.loads(line)
    assert told.pop("time").endswith("Z")
    assert told == {
        "level": "error",
        "logger": "tracker",
        "event": "e",
        "digest": str(_DIGEST),
        "n": 1,
        "f": 0.5,
        "none": None,
        "many": {"a": [True]},
        "event_": "x",
        "time_": "y",
    }


@settings(deadline=None)
@given(event=st.text(max_size=20), value=st.text(max_size=50), format=st.sampled_from(["text", "json"]))
def test_whatever_is_logged_is_one_line_that_can_be_read_back(event: str, value: str, format: str) -> None:
    (line,) = _lines(lambda: get_logger("x").info(event, value=value, after=1), format=format)
    assert len(line.splitlines()) == 1
    hidden = re.sub(r"(?<=://)[^/\s@]+(?=@)", "***", value)
    if format == "json":
        assert json.loads(line)["value"] == hidden
        return
    match = re.fullmatch(r'\S+ info x (?:[^\s"]+|"(?:[^"\\]|\\.)*") value=([^\s"=]+|"(?:[^"\\]|\\.)*") after=1', line)
    assert match is not None
    written = match[1]
    assert (json.loads(written) if written.startswith('"') else written) == hidden


def test_unexpected_errors_come_with_their_traceback_in_one_line() -> None:
    def fail() -> None:
        try:
            raise KeyError("gone")
        except KeyError as error:
            get_logger("agent").exception("round_failed", error, round=3)

    (line,) = _lines(fail)
    assert ' error agent round_failed round=3 error="KeyError: \'gone\'" traceback="Traceback (most recent' in line
    assert r"raise KeyError(\"gone\")\n" in line
    (line,) = _lines(fail, format="json")
    assert json.loads(line)["traceback"].count("\n") >= 3


def test_levels() -> None:
    def all_of_them() -> None:
        log = get_logger("x")
        log.debug("d")
        log.info("i")
        log.warning("w")
        log.error("e")

    events = {
        level: [line.split()[3] for line in _lines(all_of_them, level)] for level in ("debug", "warning", "error")
    }
    assert events == {"debug": ["d", "i", "w", "e"], "warning": ["w", "e"], "error": ["e"]}


def test_what_is_not_logged_is_not_formatted() -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("formatted although nobody reads it")

    assert _lines(lambda: get_logger("x").debug("e", value=Costly()), "info") == []


def test_records_of_others_take_the_same_way_from_warning_up() -> None:
    def others() -> None:
        logging.getLogger("third.party").info("quiet %s", "x")
        logging.getLogger("third.party").warning("loud %s\nline", "p2pjoin_x")
        try:
            raise ValueError("inside")
        except ValueError:
            logging.getLogger("third.party").exception("failed")

    first, second = _lines(others)
    assert first.endswith(r'warning third.party "loud ***\nline"')
    assert 'error third.party failed traceback="Traceback' in second


def test_second_setup_replaces_the_first() -> None:
    old = io.StringIO()
    setup("info", "text", old)
    assert len(_lines(lambda: get_logger("x").info("e"))) == 1
    assert old.getvalue() == ""


def test_unknown_levels_and_formats_are_named() -> None:
    with pytest.raises(InvalidInput, match="'loud' isn't one of debug, info, warning, error"):
        setup("loud")
    with pytest.raises(InvalidInput, match="'xml' isn't one of text, json"):
        setup("info", "xml")


def test_long_values_are_cut() -> None:
    assert len(_tail(value="x" * 100_000)) < 17_000
