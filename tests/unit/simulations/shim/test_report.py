from simulations.shim.report import Round, document, rows, table
from simulations.shim.transfers import Transfer

GIB = 1 << 30


def a_round(agent_seconds: float, nginx_seconds: float, agent_cpu: float, nginx_cpu: float) -> Round:
    large = {
        "agent": Transfer(2 * GIB, 2, agent_seconds, agent_cpu),
        "nginx": Transfer(2 * GIB, 2, nginx_seconds, nginx_cpu),
    }
    small = {"agent": Transfer(4, 4, 1.0, 0.004), "nginx": Transfer(4, 4, 0.5, 0.002)}
    return Round(large, small)


def test_rows() -> None:
    speed, cost, small, small_cost = rows([a_round(2, 2, 0.2, 0.2), a_round(4, 2, 0.1, 0.2), a_round(2, 4, 0.6, 0.4)])
    assert (speed.agent, speed.nginx, speed.ratio) == ((1024, 512), (1024, 512), (1, 0.5))
    assert (cost.agent, cost.nginx) == ((0.1, 0.3), (0.1, 0.2))
    assert cost.ratio == (1.0, 0.6 / 0.4)
    assert (small.agent, small.nginx, small.ratio) == ((4, 4), (8, 8), (0.5, 0.5))
    assert (small_cost.agent, small_cost.ratio) == ((1000, 1000), (2, 2))


def test_table_and_document_say_the_same() -> None:
    found = rows([a_round(2, 2, 0.2, 0.2)])
    lines = table(found).splitlines()
    assert lines[0].split() == ["agent", "worst", "nginx", "worst", "agent/nginx", "worst"]
    assert lines[2].split() == [
        "CPU",
        "s/GiB",
        "of",
        "the",
        "server",
        "0.100",
        "0.100",
        "0.100",
        "0.100",
        "1.000",
        "1.000",
    ]
    assert document(found)["MiB/s"]["agent"] == {"median": 1024, "worst": 1024}
