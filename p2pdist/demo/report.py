"""What the demo says at its end: a table of agents, the fleet's figures, and how to pull by hand while it is up."""

from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from p2pdist.core.units import format_size
from p2pdist.demo.configs import UpstreamSite
from p2pdist.demo.outcome import Outcome, Stage
from p2pdist.oci.reference import Reference

_MIB = 1 << 20


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Print the table, and what the figures mean for the fleet."""
    console.print(_table(outcome))
    for line in conclusions(outcome):
        console.print(line, markup=False, highlight=False)


def _table(outcome: Outcome) -> Table:
    """Narrow enough for 80 columns."""
    table = Table(
        title="What each agent received, in MiB, and from where",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("image", max_width=20, no_wrap=True)
    table.add_column("agent", no_wrap=True)
    for heading in ("time", "1st byte", "members", "dealt", "swarm", "origin"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in (*outcome.together, outcome.late):
        _add_rows(table, stage, late=stage is outcome.late)
    return table


def _add_rows(table: Table, stage: Stage, *, late: bool) -> None:
    label = Text(stage.image.rpartition("/")[2])
    for number, agent in enumerate(stage.agents):
        sources = (agent.received.relay, agent.received.dealt, agent.received.swarm, agent.received.origin)
        table.add_row(
            label if number == 0 else "",
            f"{agent.name} (late)" if late else agent.name,
            f"{agent.seconds:.2f} s",
            f"{agent.first_byte_seconds * 1000:.0f} ms",
            *(f"{size / _MIB:.2f}" if size else "-" for size in sources),
        )
    table.add_section()


def conclusions(outcome: Outcome) -> Iterator[str]:
    """The fleet's figures, a sentence a line."""
    first = outcome.together[0]
    copies = (
        f"{first.origin_copies:.3f} copies came from the origin, {first.seeder_copies:.3f} were dealt by the tracker"
    )
    yield f"{_shown(first)} for {len(first.agents)} agents: {copies}."
    for later in outcome.together[1:]:
        cost = f"{format_size(later.origin_bytes)} from the origin"
        share = later.origin_bytes / first.origin_bytes if first.origin_bytes else 0.0
        yield f"{_shown(later)} after it: {cost}, {share:.1%} of what the first cost."
    late = outcome.late
    (agent,) = late.agents
    others_bytes = agent.received.relay + agent.received.swarm
    yield (
        f"{_shown(late)} for the agent that came late: {format_size(others_bytes)} from the others, "
        f"{format_size(late.origin_bytes)} from the origin, {format_size(late.dealt_bytes)} dealt."
    )
    yield f"All of it took {outcome.seconds:.1f} s and {outcome.cpu_seconds:.1f} CPU s on this machine."
    if not outcome.wrong:
        yield "Every digest is right."


def _shown(stage: Stage) -> str:
    return f"{stage.image} ({format_size(stage.image_bytes)})"


def write_hosts(directory: Path, upstream: UpstreamSite, shim: str) -> Path:
    """Write containerd's mirror configuration for `upstream` under `directory`; returns the file."""
    path = directory / "hosts" / upstream.name / "hosts.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'server = "{upstream.origin}"\n\n[host."{shim}"]\n  capabilities = ["pull", "resolve"]\n', encoding="utf-8"
    )
    return path


def instructions(shims: list[str], image: str, hosts: Path) -> Iterator[str]:
    """Lines that say where the shims are and how each client pulls `image` through the first of them."""
    reference = Reference.parse(image)
    name = f"{reference.repository.path}@{reference.digest}" if reference.digest else None
    by_shim = f"{shims[0].removeprefix('http://')}/{name or f'{reference.repository.path}:{reference.tag}'}"
    yield "The shims:"
    yield from (f"  {shim}" for shim in shims)
    yield ""
    yield f"containerd, with this in {hosts}:"
    yield from (f"    {line}".rstrip() for line in hosts.read_text(encoding="utf-8").splitlines())
    yield f"  ctr images pull --hosts-dir {hosts.parent.parent} {image}"
    yield "Podman:"
    yield f"  podman pull --tls-verify=false {by_shim}"
    yield "skopeo:"
    yield f"  skopeo copy --src-tls-verify=false docker://{by_shim} dir:copied"
    yield "Docker (it trusts registries on 127.0.0.1 without TLS):"
    yield f"  docker pull {by_shim}"
    yield ""
    yield "Everything stays up until Ctrl-C or SIGTERM."
