"""Files, environment and command line: what wins, and what is said when something is wrong."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pdist.config import AgentConfig, ConfigError, TrackerConfig, load_agent, load_tracker, render
from p2pdist.config.load import Loaded

_TRACKER = {"tracker.address": "tracker.example:7400"}


def _agent(
    tmp_path: Path, text: str, *, overrides: dict[str, str] | None = None, environ: dict[str, str] | None = None
) -> Loaded[AgentConfig]:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load_agent(path, overrides=_TRACKER if overrides is None else overrides, environ=environ or {})


def _problems(tmp_path: Path, text: str, *, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _agent(tmp_path, text, environ=environ)
    assert caught.value.exit_code == 2
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_nothing_but_the_tracker_is_needed() -> None:
    loaded = load_agent(None, overrides=_TRACKER, environ={})
    assert loaded.config == AgentConfig.default("tracker.example:7400")
    assert loaded.sources == {"tracker.address": "command line"}
    assert load_tracker(None, environ={}).config == TrackerConfig.default()


def test_values_are_typed(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    path = tmp_path / "tracker.toml"
    path.write_text(
        'state_dir = "state"\nlease = "1m"\n[store]\nquota = "1.5 GiB"\n[control]\nlisten = ["[::]:0", "0.0.0.0:1"]\n'
        '[[upstream]]\nname = "ghcr.io"\nca_file = "ca.pem"\n[[upstream]]\nname = "a.example"\norigin = "http://b:1/"\n'
    )
    config = load_tracker(path, environ={}).config
    assert config.state_dir == tmp_path / "state"
    assert config.lease == 60.0
    assert config.store.quota_bytes == 1536 * 1024**2
    assert [address.port for address in config.control.listen] == [0, 1]
    assert [upstream.origin_url for upstream in config.upstream] == ["https://ghcr.io", "http://b:1"]
    assert config.upstream[0].ca_file == tmp_path / "ca.pem"
    assert config.upstream[1].ca_file is None


def test_no_quota_is_no_limit() -> None:
    assert TrackerConfig.default().store.quota_bytes is None


def test_the_later_wins(tmp_path: Path) -> None:
    text = '[tracker]\naddress = "file:1"\n[log]\nlevel = "debug"\nformat = "json"\n[store]\nquota = "1GiB"\n'
    loaded = _agent(
        tmp_path,
        text,
        overrides={"log.level": "error"},
        environ={"P2PDIST_LOG_LEVEL": "warning", "P2PDIST_LOG_FORMAT": "text", "P2PDIST_TRACKER_INSECURE": "true"},
    )
    config, file = loaded.config, str(tmp_path / "agent.toml")
    assert (config.log.level, config.log.format, config.tracker.insecure) == ("error", "text", True)
    assert loaded.sources == {
        "tracker.address": file,
        "tracker.insecure": "environment P2PDIST_TRACKER_INSECURE",
        "store.quota": file,
        "log.level": "command line",
        "log.format": "environment P2PDIST_LOG_FORMAT",
    }


def test_variables_that_fit_no_key_are_left_alone() -> None:
    load_agent(None, overrides=_TRACKER, environ={"P2PDIST_TRACKER_PORT": "tcp://10.0.0.1:7400"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('state_dirr = "x"\n', 'agent.toml: state_dirr: there is no such key; did you mean "state_dir"?'),
        ('[tracker]\njoin-token = "s3cret"\n', 'tracker.join-token: there is no such key; did you mean "join_token"?'),
        ("[store]\nsize = 1\n", "store.size: there is no such key; there are: quota"),
        ('[log]\nzone = "a"\n', "log.zone: there is no such key here; it belongs above the first [table]"),
        ('[log]\nquota = "0"\n', "log.quota: there is no such key here; it belongs into [store]"),
        ('lease = "30s"\n', "lease: is a key of the tracker's configuration"),
        ("[store]\nquota = 5\n", 'store.quota = 5: a size is a text with a unit, for example "256MiB"'),
        ('[store]\nquota = "5 Mbit/s"\n', "store.quota = \"5 Mbit/s\": '5 Mbit/s' isn't a size"),
        ('[log]\nlevel = "warn"\n', 'log.level = "warn": must be one of "debug", "info", "warning", "error"; did you'),
        ('[tracker]\ninsecure = "yes"\n', 'tracker.insecure = "yes": must be true or false'),
        ('[tracker]\njoin_token = "s3 cret"\n', "tracker.join_token: a secret has no blanks"),
        ("name = 5\n", "name = 5: must be a text in quotes"),
        ('state_dir = ""\n', 'state_dir = "": must be a path in quotes'),
        ('state_dir = "~nobody-at-all/x"\n', 'state_dir = "~nobody-at-all/x": names a home directory'),
        ('[shim]\nlisten = "127.0.0.1:1"\n', 'shim.listen = "127.0.0.1:1": must be a list: ["127.0.0.1:1"]'),
        ("[shim]\nlisten = []\n", "shim.listen = []: must have at least one entry"),
        ('[shim]\nlisten = ["a:1", "b"]\n', 'shim.listen[1] = "b": an address needs a host and a port'),
        ('shim = "127.0.0.1:1"\n', 'shim = "127.0.0.1:1": must be a table, [shim]'),
        ('[upstream]\nname = "a.b"\n', "upstream = {…}: must be a list of tables, [[upstream]]"),
        ("upstream = [5]\n", "upstream[0] = 5: must be a table"),
        ('[[upstream]]\norigin = "http://a"\n', "upstream[0].name: is missing, and has no default"),
        (
            '[[upstream]]\nname = "a.b"\norigin = "a.b"\n',
            'upstream[0].origin = "a.b": an origin is an http or https URL',
        ),
        (
            '[[upstream]]\nname = "a.b"\n[[upstream]]\nname = "a.b"\n',
            'upstream[1].name = "a.b": upstream[0] has the same',
        ),
        ('[[upstream]]\nname = "a.b"\nca_file = "ca.pem"\n', 'upstream[0].ca_file = "ca.pem": there is no file'),
        ('[[upstream]]\nname = "a.b"\ncredentials_file = "."\n', "isn't a file"),
        (
            '[shim]\nlisten = ["a:1"]\n[relay]\nlisten = ["a:1"]\n',
            'relay.listen[0] = "a:1": shim.listen[0] has the same',
        ),
        ('[shim]\nlisten = ["127.0.0.1:7503"]\n', "admin.listen: shim.listen[0] has the same address"),
        ("a = = 1\n", "agent.toml: isn't TOML: Invalid value (at line 1, column 5)"),
    ],
)
def test_one_mistake_is_one_clear_problem(tmp_path: Path, text: str, expected: str) -> None:
    (problem,) = _problems(tmp_path, text)
    assert expected in problem
    assert "s3" not in problem


def test_credentials_come_from_one_place(tmp_path: Path) -> None:
    text = '[[upstream]]\nname = "a.b"\ncredentials_file = "agent.toml"\ncredential_helper = "ecr-login"\n'
    (problem,) = _problems(tmp_path, text)
    assert problem.startswith(
        'agent.toml: upstream[0].credential_helper = "ecr-login": there is a credentials_file too'
    )


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    found = _problems(tmp_path, 'zone = "a//b"\n[log]\nlevel = 1\nfromat = "text"\n')
    assert [problem.split(":")[1].split(" =")[0].strip() for problem in found] == ["zone", "log.fromat", "log.level"]


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    found = _problems(tmp_path, '[log]\nlevel = "debug"\n', environ={"P2PDIST_LOG_LEVEL": "loud"})
    assert found == [
        'environment P2PDIST_LOG_LEVEL: log.level = "loud": must be one of "debug", "info", "warning", "error"'
    ]


def test_the_tracker_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"^tracker\.address: is missing.* P2PDIST_TRACKER_ADDRESS$"):
        load_agent(None, environ={})


def test_the_command_line_cannot_mend_a_table_that_is_none(tmp_path: Path) -> None:
    assert _problems(tmp_path, "tracker = 5\n") == ["agent.toml: tracker = 5: must be a table, [tracker]"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("upstream = []\n", "nothing to fetch from|there is none to fetch from"),
        ('lease = "10ms"\n', 'lease = "10ms": a lease lasts between'),
        ('lease = "2h"\n', "a lease lasts between"),
        ("lease = 30\n", 'lease = 30: a duration is a text with a unit, for example "30s"'),
        ('name = "a"\n', "name: is a key of the agent's configuration"),
        ('[relay]\ncopy_per = "rak"\n', 'must be one of "fleet", "region", "zone", "rack"; did you mean "rack"'),
    ],
)
def test_a_tracker_says_what_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "tracker.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        load_tracker(path, environ={})


def test_where_a_tracker_stands_and_what_it_deals_a_copy_to(tmp_path: Path) -> None:
    path = tmp_path / "tracker.toml"
    upstream = '[[upstream]]\nname = "docker.io"\n'
    path.write_text(upstream)
    config = load_tracker(path, environ={}).config
    assert (config.relay.zone, config.relay.copy_per) == (None, "region")
    path.write_text('[relay]\nzone = "eu/a/r1"\ncopy_per = "rack"\n' + upstream)
    config = load_tracker(path, environ={}).config
    assert (config.relay.zone, config.relay.copy_per) == ("eu/a/r1", "rack")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file or directory"):
        load_agent(tmp_path / "absent.toml", environ={})
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        load_agent(tmp_path, environ={})
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b'name = "a"\n\xff')
    with pytest.raises(ConfigError, match=r"isn't UTF-8, as TOML must be \(at line 2\)"):
        load_agent(binary, environ={})
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        load_agent(large, environ={})


def test_what_is_shown_reads_back_and_names_its_sources(tmp_path: Path) -> None:
    text = 'zone = "eu/b"\n[shim]\nlisten = ["[::1]:0"]\n[[upstream]]\nname = "ghcr.io"\ncredential_helper = "ghcr"\n'
    loaded = _agent(tmp_path, text, environ={"P2PDIST_STORE_QUOTA": "3GiB", "P2PDIST_STATE_DIR": "/var/lib/x"})
    shown = render(loaded)
    again = tmp_path / "again.toml"
    again.write_text(shown)
    reread = load_agent(again, environ={}).config
    assert reread.upstream[0].origin_url == loaded.config.upstream[0].origin_url
    assert (reread.tracker, reread.shim, reread.store) == (
        loaded.config.tracker,
        loaded.config.shim,
        loaded.config.store,
    )
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert f'zone = "eu/b" # {tmp_path}/agent.toml' in lines
    assert 'quota = "3GiB" # environment P2PDIST_STORE_QUOTA' in lines
    assert 'address = "tracker.example:7400" # command line' in lines
    assert 'level = "info" # default' in lines


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    loaded = _agent(tmp_path, '[tracker]\njoin_token = "s3cret"\n')
    assert loaded.config.tracker.join_token == "s3cret"
    assert "s3cret" not in render(loaded) + repr(loaded)
    assert 'join_token = "(hidden)"' in render(loaded)


_VALUES = st.recursive(
    st.text(max_size=5) | st.integers(-5, 5) | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "listen", "x"]), inner),
    max_leaves=4,
)


# The first draw of text in a fresh clone builds hypothesis's table of characters, which takes it more than a second.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    tables=st.dictionaries(
        st.sampled_from(["state_dir", "name", "tracker", "shim", "log", "store", "upstream", "x"]), _VALUES
    )
)
def test_any_tables_are_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, tables: dict[str, object]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in tables.items()))
    try:
        loaded = load_agent(path, overrides=_TRACKER, environ={})
    except ConfigError:
        return
    assert loaded.config.tracker.address == "tracker.example:7400"


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
        case _:
            return repr(value)
