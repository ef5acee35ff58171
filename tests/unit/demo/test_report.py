import io
import json

import pytest
from rich.console import Console

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput, ProtocolError
from p2pdist.demo.admin import SourceBytes, counter_total
from p2pdist.demo.configs import UpstreamSite
from p2pdist.demo.display import Display
from p2pdist.demo.outcome import AgentFigures, Outcome, Stage
from p2pdist.demo.pull import BlobProgress, PullProgress
from p2pdist.demo.report import conclusions, instructions, print_outcome, write_hosts
from p2pdist.demo.scenario import named_at
from p2pdist.http.url import Url
from p2pdist.oci.descriptor import Descriptor

MIB = 1 << 20


def stage(image: str, names: list[str], received: SourceBytes, origin: int, dealt: int, wrong=()) -> Stage:
    agents = tuple(AgentFigures(name, 2.0 + number, 0.25, received) for number, name in enumerate(names))
    return Stage(f"registry.example/demo/app:{image}", 100 * MIB, agents, origin, dealt, tuple(wrong))


def outcome(versions: int = 2, wrong=()) -> Outcome:
    names = ["agent-1", "agent-2"]
    first = stage("1", names, SourceBytes(50 * MIB, 50 * MIB), 101 * MIB, 102 * MIB, wrong)
    second = stage("2", names, SourceBytes(2 * MIB, 2 * MIB), 4 * MIB, 4 * MIB)
    late = stage(str(versions), ["agent-3"], SourceBytes(swarm=100 * MIB), 0, 0)
    return Outcome([first, second][:versions], late, 12.5, 20.25)


def pulled(seconds: float, relay: int, dealt: int, swarm: int) -> dict[str, float]:
    sources = {"relay_bytes": relay, "dealt_bytes": dealt, "swarm_bytes": swarm}
    return {"seconds": seconds, "first_byte_seconds": 0.25, **sources}


def test_the_object_has_exactly_the_keys_that_were_agreed_on():
    document = json.loads(json.dumps(outcome().as_json()))
    assert document == {
        "agents": [
            pulled(2.0, 50 * MIB, 50 * MIB, 0),
            pulled(3.0, 50 * MIB, 50 * MIB, 0),
            pulled(2.0, 0, 0, 100 * MIB),
        ],
        "origin_copies": 1.01,
        "seeder_copies": 1.02,
        "image_bytes": 100 * MIB,
        "second_version_origin_bytes": 4 * MIB,
        "digests_ok": True,
    }


def test_the_object_of_a_fleet_that_stays_says_where_it_is():
    document = outcome().as_json(["http://127.0.0.1:1", "http://127.0.0.1:2"])
    assert document["shims"] == ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    assert document["images"] == ["registry.example/demo/app:1", "registry.example/demo/app:2"]


def test_without_a_second_version_there_is_no_figure_for_it():
    assert outcome(versions=1).as_json()["second_version_origin_bytes"] is None


def test_one_wrong_digest_is_enough():
    assert outcome(wrong=["agent-1: bad"]).as_json()["digests_ok"] is False
    assert outcome(wrong=["agent-1: bad"]).wrong == ("agent-1: bad",)


def printed(result: Outcome) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_outcome(console, result)
    return console.file.getvalue()


def test_the_table_has_a_row_for_each_pull_and_fits_80_columns():
    rows = [line for line in printed(outcome()).splitlines() if "agent-" in line]
    assert [" ".join(row.split()) for row in rows] == [
        "app:1 agent-1 2.00 s 250 ms 50.00 50.00 - -",
        "agent-2 3.00 s 250 ms 50.00 50.00 - -",
        "app:2 agent-1 2.00 s 250 ms 2.00 2.00 - -",
        "agent-2 3.00 s 250 ms 2.00 2.00 - -",
        "app:2 agent-3 (late) 2.00 s 250 ms - - 100.00 -",
    ]


def test_the_conclusions_name_the_copies_and_the_cost_of_the_second_version():
    lines = list(conclusions(outcome()))
    assert "1.010 copies came from the origin, 1.020 were dealt" in lines[0]
    assert "4.00 MiB from the origin, 4.0% of what the first cost" in lines[1]
    assert "100 MiB from the others, 0 B from the origin, 0 B dealt" in lines[2]
    assert lines[-1] == "Every digest is right."
    assert "Every digest is right." not in list(conclusions(outcome(wrong=["bad"])))


def test_the_instructions_are_whole_commands(tmp_path):
    hosts = write_hosts(tmp_path, UpstreamSite("registry.example", "http://127.0.0.1:9"), "http://127.0.0.1:7500")
    assert hosts.read_text() == (
        'server = "http://127.0.0.1:9"\n\n[host."http://127.0.0.1:7500"]\n  capabilities = ["pull", "resolve"]\n'
    )
    text = "\n".join(instructions(["http://127.0.0.1:7500"], "registry.example/demo/app:2", hosts))
    for command in (
        f"ctr images pull --hosts-dir {tmp_path}/hosts registry.example/demo/app:2",
        "podman pull --tls-verify=false 127.0.0.1:7500/demo/app:2",
        "skopeo copy --src-tls-verify=false docker://127.0.0.1:7500/demo/app:2 dir:copied",
        "docker pull 127.0.0.1:7500/demo/app:2",
        '    [host."http://127.0.0.1:7500"]',
    ):
        assert command in text
    digest = "sha256:" + "0" * 64
    by_digest = "\n".join(instructions(["http://127.0.0.1:1"], f"registry.example/demo/app@{digest}", hosts))
    assert f"docker pull 127.0.0.1:1/demo/app@{digest}" in by_digest


def pulls() -> dict[str, PullProgress]:
    blob = Descriptor("application/octet-stream", Digest.of(b""), 4 * MIB)
    return {"agent-1": PullProgress([BlobProgress(blob, received_bytes=MIB)]), "agent-2": PullProgress()}


def test_a_terminal_gets_a_bar_for_each_agent():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    display = Display(console)
    running = pulls()
    with display.pulling(running):
        running["agent-1"].blobs[0].received_bytes = 3 * MIB
    assert "3.0/4.0 MiB" in console.file.getvalue()
    assert "agent-2" in console.file.getvalue()


def test_a_pipe_gets_the_steps_only():
    console = Console(file=io.StringIO(), width=120)
    display = Display(console)
    display.step("Pulling [bold]x")
    with display.pulling(pulls()):
        pass
    assert console.file.getvalue() == "Pulling [bold]x …\n"


METRICS = """# HELP p2pdist_tracker_origin_bytes_total Bytes.
# TYPE p2pdist_tracker_origin_bytes_total counter
p2pdist_tracker_origin_bytes_total{upstream="a"} 5.0
p2pdist_tracker_origin_bytes_total{upstream="b"} 1.5e+07
# TYPE p2pdist_tracker_origin_bytes_created gauge
p2pdist_tracker_origin_bytes_created{upstream="a"} 1.7e+09
# HELP p2pdist_tracker_dealt_bytes_total Bytes.
# TYPE p2pdist_tracker_dealt_bytes_total counter
"""


def test_counters_are_added_up_over_their_labels():
    url = Url.parse("http://127.0.0.1:1/metrics")
    assert counter_total(METRICS, "p2pdist_tracker_origin_bytes", url) == 15_000_005
    assert counter_total(METRICS, "p2pdist_tracker_dealt_bytes", url) == 0


@pytest.mark.parametrize("text", ["", "<html>", "p2pdist_tracker_dealt_bytes_total zero"])
def test_a_missing_counter_is_an_error(text):
    with pytest.raises(ProtocolError, match="p2pdist_tracker_dealt_bytes_total"):
        counter_total(text, "p2pdist_tracker_dealt_bytes", Url.parse("http://127.0.0.1:1/metrics"))


def test_an_image_of_a_real_origin_may_be_named_with_or_without_it():
    for image in ("team/app:1.2", "127.0.0.1:5000/team/app:1.2"):
        assert str(named_at("127.0.0.1:5000", image)) == "127.0.0.1:5000/team/app:1.2"
    assert str(named_at("127.0.0.1:5000", "app")) == "127.0.0.1:5000/app:latest"
    with pytest.raises(InvalidInput, match="isn't a repository"):
        named_at("127.0.0.1:5000", "App:1")
