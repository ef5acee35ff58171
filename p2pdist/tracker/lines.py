"""The queues towards connected agents: who must hear something finds them here by node id.

Each connection has a queue and one writer. An agent that doesn't read for so long that its queue is full is cut off and
comes back with its inventory, rather than make anybody wait. Knows nothing of what the messages mean.
"""

from dataclasses import dataclass, field

import trio

from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import Direction, TrackerMetrics
from p2pdist.wire.channel import Channel
from p2pdist.wire.messages import Goodbye, ManifestIs, Message

SEND_SECONDS = 30.0
_QUEUE_MESSAGES = 4096
_BATCH_MESSAGES = 64
log = get_logger("tracker.lines")


@dataclass(slots=True, eq=False)
class Line:
    """One connected agent: what it is to hear, the questions that it waits on, and the scope that ends all of it."""

    node: str
    send: trio.MemorySendChannel[Message]
    receive: trio.MemoryReceiveChannel[Message]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    questions: set[int] = field(default_factory=set)


class Lines:
    """The connected agents, one line each."""

    def __init__(self, metrics: TrackerMetrics) -> None:
        self._metrics = metrics
        self._lines: dict[str, Line] = {}

    def __contains__(self, node: str) -> bool:
        return node in self._lines

    def all(self) -> list[Line]:
        """The lines that stand."""
        return list(self._lines.values())

    def open(self, node: str) -> tuple[Line, bool]:
        """A new line to `node`, and whether it takes the place of one that stood until now, which is cut."""
        replaced = self.cut(node)
        line = self._lines[node] = Line(node, *trio.open_memory_channel[Message](_QUEUE_MESSAGES))
        return line, replaced

    def close(self, line: Line) -> bool:
        """A connection has ended; whether its line stood until now."""
        line.send.close()
        line.receive.close()
        if self._lines.get(line.node) is not line:
            return False
        del self._lines[line.node]
        return True

    def say(self, node: str, message: Message) -> None:
        """Queue a message for an agent; nothing happens when it isn't connected: it will come back and ask."""
        line = self._lines.get(node)
        if line is None:
            return
        try:
            line.send.send_nowait(message)
        except trio.WouldBlock:
            log.warning("agent_too_slow", node=node, queued=_QUEUE_MESSAGES)
            line.scope.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the line is on its way out
        else:
            self._metrics.control_frames.labels(Direction.OUT, type(message).__name__).inc()

    def part(self, node: str, reason: str, final: bool) -> None:
        """Say goodbye, and end the connection when that has left."""
        line = self._lines.get(node)
        if line is not None:
            self.say(node, Goodbye(reason[:1000], final))
            line.send.close()

    def cut(self, node: str) -> bool:
        """End the connection of `node` now; whether there was one."""
        line = self._lines.pop(node, None)
        if line is None:
            return False
        line.scope.cancel()
        return True

    async def write(self, line: Line, channel: Channel) -> None:
        """Send what is queued until the line is cut or was told goodbye; ends its scope then.

        A manifest may have 4 MiB, so that one is the last of its batch.
        """
        try:
            async for message in line.receive:
                batch = [message]
                while len(batch) < _BATCH_MESSAGES and not isinstance(batch[-1], ManifestIs):
                    try:
                        batch.append(line.receive.receive_nowait())
                    except (trio.WouldBlock, trio.EndOfChannel):
                        break
                with trio.fail_after(SEND_SECONDS):
                    await channel.send(*batch)
        except trio.TooSlowError:
            log.warning("agent_too_slow", node=line.node, seconds=SEND_SECONDS)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("agent_unreachable", node=line.node)
        finally:
            line.scope.cancel()
