"""hosts.toml with one host more: it comes first, and everything else says and reads what it did."""

import string
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.runtimes.errors import NotUnderstood
from p2pdist.runtimes.hosts_toml import asks, registry_of, with_host

URL = "http://127.0.0.1:7500"
OURS = f'[host."{URL}"]\n  capabilities = ["pull", "resolve"]\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('server = "https://r.test"\n', f'server = "https://r.test"\n{OURS}'),
        ('server = "https://r.test"', f'server = "https://r.test"\n{OURS}'),
        ("# only words\n", f"# only words\n{OURS}"),
        (
            '# mine\nserver = "https://r.test"\n\n# the cache\n[host."https://c.test"]\n  capabilities = ["pull"]\n',
            f'# mine\nserver = "https://r.test"\n\n{OURS}\n# the cache\n[host."https://c.test"]\n'
            '  capabilities = ["pull"]\n',
        ),
        ('client = [\n["a", "b"]\n]\n[header]\nx = "y"\n', f'client = [\n["a", "b"]\n]\n{OURS}\n[header]\nx = "y"\n'),
        ("server = '''\n#'''\n[header]\n", f"server = '''\n#'''\n{OURS}\n[header]\n"),
        (
            'server = "s"\r\n[host."https://c.test"]\r\n',
            'server = "s"\r\n' + OURS.replace("\n", "\r\n") + '\r\n[host."https://c.test"]\r\n',
        ),
    ],
)
def test_it_comes_first_and_the_rest_stays(before: str, after: str) -> None:
    assert with_host(before.encode(), URL, "f").decode() == after
    assert with_host(after.encode(), URL, "f").decode() == after
    assert asks(after.encode(), URL)
    assert not asks(before.encode(), URL)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"server = ", "isn't TOML"),
        (b"\xff", "isn't UTF-8"),
        (b"host = 5\n", "host isn't a table"),
        (b'host = {"https://c.test" = {}}\n', "nothing can be put into"),
        (b'[host."http://127.0.0.1:7500"]\ncapabilities = ["push"]\n', "nothing can be put into"),
    ],
)
def test_what_cannot_be_changed_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(NotUnderstood, match=reason):
        with_host(text, URL, "/etc/x/hosts.toml")


_WORDS = st.text(string.ascii_letters + string.digits + " #[]'.-", max_size=12)
_KEYS = st.builds("{} = '''\n{}'''\n".format, st.sampled_from(["server", "ca"]), _WORDS.filter(lambda w: "'" not in w))
_COMMENTS = st.builds("# {}\n".format, _WORDS)
_BLANK = st.sampled_from(["\n", "  \n", "\t# x\n"])
_ARRAYS = st.builds("client = [\n{}]\n".format, st.sampled_from(["", '["a"],\n', '[ "a",\n "b" ]\n', "# [c]\n"]))
_HOSTS = st.builds('{}[host."https://h{}.test"]\n'.format, st.sampled_from(["", "  "]), st.integers(0, 99))


@given(st.lists(st.one_of(_KEYS, _COMMENTS, _BLANK, _ARRAYS, _HOSTS), max_size=8).map("".join))
def test_any_file_keeps_every_line(text: str) -> None:
    try:
        before = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        with pytest.raises(NotUnderstood):
            with_host(text.encode(), URL, "f")
        return
    result = with_host(text.encode(), URL, "f").decode()
    assert result.replace(OURS + "\n", "", 1) == text or result.replace(OURS, "", 1) == text
    after = tomllib.loads(result)
    assert list(after.pop("host")) == [URL, *before.pop("host", {})]
    assert after == before


@pytest.mark.parametrize(
    ("directory", "registry"), [("docker.io", "docker.io"), ("r.test_5000_", "r.test:5000"), ("_default", "*")]
)
def test_directories_stand_for_registries(directory: str, registry: str) -> None:
    assert registry_of(directory) == registry
