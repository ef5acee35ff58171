import trio
import trio.testing

from p2pdist.swarm.broadcast import Broadcast


async def test_everybody_who_waits_gets_the_next_value() -> None:
    broadcast: Broadcast[int] = Broadcast()
    got: list[tuple[str, int]] = []

    async def wait(name: str) -> None:
        got.append((name, await broadcast.next()))

    broadcast.send(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "a")
        nursery.start_soon(wait, "b")
        await trio.testing.wait_all_tasks_blocked()
        broadcast.send(1)
        nursery.start_soon(wait, "c")
        await trio.testing.wait_all_tasks_blocked()
        broadcast.send(2)
    assert sorted(got) == [("a", 1), ("b", 1), ("c", 2)]
