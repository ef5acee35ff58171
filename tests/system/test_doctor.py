"""`p2pdist doctor` beside real agents: one that is well, one whose tracker has died, none."""

import json
from collections.abc import Callable
from pathlib import Path

from simulations.processes import poll_until
from tests.system.daemons import Agent, attempt
from tests.system.fetches import pull
from tests.system.fleet import UPSTREAM, open_fleet
from tests.system.images import image, layer


def examine(agent: Agent, *arguments: str) -> tuple[int, dict[str, str]]:
    """The exit code, and the level of each finding."""
    code, printed, complained = attempt("doctor", "--json", "--admin", agent.admin_address, *arguments)
    assert not complained, complained
    return code, {finding["check"]: finding["level"] for finding in json.loads(printed)["findings"]}


def test_what_it_finds(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    require_program("docker-registry")
    with open_fleet(tmp_path, agents=2) as (registry, fleet):
        agent = fleet.agents[0]
        made = image(layer(100_000, "doctor"))
        registry.push(made, "library/app", "1")
        pull(agent, "library/app", "1", made)
        code, found = examine(agent, "--image", f"{UPSTREAM}/library/app:1")
        assert code == 0
        wanted = ("agent", "tracker", "certificate", "store", "test pull", "peers")
        assert [found[check] for check in wanted] == ["ok"] * len(wanted)
        code, found = examine(agent, "--image", f"{UPSTREAM}/library/missing:1")
        assert (code, found["test pull"]) == (1, "WRONG")
        fleet.tracker.kill()
        poll_until(lambda: not agent.status()["tracker"]["connected"], "the agent misses its tracker", 10)
        code, found = examine(agent)
        assert (code, found["tracker"]) == (1, "WRONG")
        agent.stop()
        assert examine(agent)[0] == 3
