"""Slots, leases and holders."""

from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.digest import Digest
from p2pdist.tracker.fleet import Fleet
from p2pdist.wire.messages import Endpoint

LAYER = Digest.of(b"a layer")
HERE = Endpoint("10.0.0.1", 1)


def register(fleet: Fleet, node: str, now: float = 0.0, port: int = 1) -> int:
    agent, _ = fleet.register(node, node, "", Endpoint("10.0.0.1", port), HERE, now)
    return agent.member.slot


def test_a_node_keeps_its_slot_while_its_lease_holds() -> None:
    fleet = Fleet(10)
    assert [register(fleet, node) for node in "abc"] == [0, 1, 2]
    fleet.disconnected("b")
    assert register(fleet, "b") == 1
    _, change = fleet.register("b", "b", "", HERE, HERE, 0.0)
    assert change.added == ()
    _, moved = fleet.register("b", "b", "", Endpoint("10.0.0.9", 1), HERE, 0.0)
    assert [member.relay.host for member in moved.added] == ["10.0.0.9"]


def test_a_free_slot_is_used_again_the_lowest_first() -> None:
    fleet = Fleet(10)
    for node in "abcd":
        register(fleet, node)
    assert fleet.remove("c").removed == (2,)
    assert fleet.remove("a").removed == (0,)
    assert fleet.remove("a").removed == ()
    assert [register(fleet, node) for node in "xyz"] == [0, 2, 4]
    assert fleet.in_order(["z", "x", "nobody", "d"]) == ["x", "d", "z"]


def test_leases_run_out_unless_renewed() -> None:
    fleet = Fleet(10)
    register(fleet, "a")
    register(fleet, "b")
    fleet.renew("b", 5)
    fleet.renew("nobody", 5)
    assert fleet.expired(9.9) == []
    assert fleet.expired(10) == ["a"]
    fleet.renew_all(20)
    assert fleet.expired(29) == []


def test_holders_are_connected_and_forgotten_with_their_lease() -> None:
    fleet = Fleet(10)
    for node in "abc":
        register(fleet, node)
        fleet.update_holdings(node, [LAYER])
    fleet.update_holdings("nobody", [LAYER])
    fleet.disconnected("b")
    assert {agent.node for agent in fleet.holders(LAYER)} == {"a", "c"}
    assert {agent.node for agent in fleet.holders(LAYER, besides="a")} == {"c"}
    fleet.update_holdings("c", removed=[LAYER])
    register(fleet, "a")
    assert fleet.holders(LAYER) == []
    fleet.remove("b")
    assert fleet._holders == {}


STEPS = st.lists(
    st.tuples(st.sampled_from(["register", "drop", "remove", "hold", "lose"]), st.sampled_from("abcdef")), max_size=60
)


@given(STEPS)
def test_slots_are_distinct_and_holders_exist(steps: list[tuple[str, str]]) -> None:
    fleet = Fleet(10)
    holding: set[str] = set()
    most = 0
    for step, node in steps:
        match step:
            case "register":
                register(fleet, node)
                holding.discard(node)
            case "drop":
                fleet.disconnected(node)
            case "remove":
                fleet.remove(node)
                holding.discard(node)
            case "hold" if fleet.get(node):
                fleet.update_holdings(node, [LAYER])
                holding.add(node)
            case "lose":
                fleet.update_holdings(node, removed=[LAYER])
                holding.discard(node)
        most = max(most, len(fleet))
        slots = [member.slot for member in fleet.table()]
        assert len(set(slots)) == len(fleet)
        assert all(slot < most for slot in slots)
        assert fleet.in_order("abcdef") == [member.node for member in sorted(fleet.table(), key=lambda m: m.slot)]
        assert {agent.node for agent in fleet.holders(LAYER)} == {
            node for node in holding if (agent := fleet.get(node)) and agent.connected
        }
