"""Hosts' links and the TCP connections over them. Knows bytes and time; what the bytes say is the receiver's business.

Why this shape. The emulated links (simulations/network.py) are token buckets: one at the sending host, one in front of
the receiver. On the sending host TCP Small Queues keeps a few packets per socket in the qdisc, so connections that have
something to send share an uplink packet by packet: *processor sharing*, computed exactly with a virtual clock that
moves at rate / active connections (one heap entry a frame, not an event a packet). In front of the receiver there is
one FIFO, and packets stream through both links at once: a frame whose first byte left at `began` and whose last byte
left at `left` is in the receiver's queue behind the work that the downlink has from others, so it arrives at

    free = max(free, began - burst / down) + bytes / down        arrived = max(left, free) + latency

The buckets hold a burst: a link that was idle lets so many bytes pass at once, which for a relay of small pieces is
most of its first byte's time.

A connection has at most `window` bytes that left and haven't arrived (TCP's window): one slow receiver therefore holds
up its own connection, not its sender's uplink. The FIFO in front of a receiver holds 50 ms, beyond which it drops:
when so much is on its way to a receiver, each connection has but one frame on its way. In front of that stands the
kernel's send buffer (`kernel` bytes: TCP_NOTSENT_LOWAT in relay/connection.py); a piece counts as written when the last
of it is in there. Behind it pieces wait in a lane per generation, and lanes take turns in frames of 64 KiB. A piece
that has its connection for itself travels as one frame here, since nobody acts on a part of a piece.

Between two zones stands a `Pipe`, one each way, which all connections share: another FIFO, through which packets stream
as through the two links.

Control frames go before pieces but behind what the kernel has. They take time from the uplink and ride on the frame in
front of them, without an event of their own.

Left out: loss and recovery in the FIFO (the senders' windows keep it short), TCP's acknowledgements (under 1 % of the
reverse direction with the large segments of veth), slow start after idle times.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from p2pdist.relay.frames import MAX_DATA_BYTES
from simulations.model.events import Events
from simulations.model.uplink import Frame, Uplink

PIECE_HEADER_BYTES = 140
CONTROL_FRAME_BYTES = 80
BURST_SECONDS = 0.01
QUEUE_SECONDS = 0.05
_NEVER = float("inf")


class Queued:
    """A piece in a lane; `begun`: the kernel has some of it."""

    __slots__ = ("begun", "item", "rest_bytes")

    def __init__(self, item: Any, size_bytes: int) -> None:
        self.item = item
        self.rest_bytes = size_bytes
        self.begun = False


class Flow:
    """One direction of one connection."""

    __slots__ = (
        "closed",
        "in_flight_bytes",
        "kernel",
        "kernel_bytes",
        "lanes",
        "on_wire",
        "queued_pieces",
        "receiver",
        "sender",
    )

    def __init__(self, sender: "Host", receiver: "Host") -> None:
        self.sender = sender
        self.receiver = receiver
        self.lanes: OrderedDict[int, deque[Queued]] = OrderedDict()
        self.kernel: deque[Frame] = deque()
        self.kernel_bytes = 0
        self.in_flight_bytes = 0
        self.queued_pieces = 0
        self.on_wire = False
        self.closed = False

    @property
    def waiting_pieces(self) -> int:
        """How many pieces wait in the lanes."""
        return sum(map(len, self.lanes.values()))

    @property
    def unsent_bytes(self) -> int:
        """What the kernel has queued towards the receiver, bytes that haven't arrived included."""
        return self.kernel_bytes + self.in_flight_bytes


class Pipe:
    """One direction of the link that joins a zone to the first one."""

    def __init__(self, bytes_per_second: float, burst_bytes: int) -> None:
        self._bytes_per_second = bytes_per_second
        self._burst_seconds = max(burst_bytes / bytes_per_second, BURST_SECONDS)
        self._free_at = -_NEVER
        self.passed_bytes = 0

    def take(self, began: float, size_bytes: int) -> tuple[float, float]:
        """When the first and the last byte of something are through that began to come at `began`."""
        self.passed_bytes += size_bytes
        begun = max(self._free_at, began - self._burst_seconds)
        self._free_at = begun + size_bytes / self._bytes_per_second
        return begun, self._free_at


class Zone:
    """Where a host stands; the pipes lead out of it and into it, and are None for the first zone."""

    def __init__(self, out: Pipe | None = None, into: Pipe | None = None) -> None:
        self.out = out
        self.into = into


class Host:
    """A host's link and connections. Subclasses say what happens with what arrives (`receive`) and left (`written`).

    `paced`: a piece counts as written when its last byte has left, not when the kernel has it.
    """

    def __init__(
        self,
        name: str,
        events: Events,
        up_bytes_per_second: float,
        down_bytes_per_second: float,
        burst_bytes: int,
        latency_seconds: float,
        window_bytes: int,
        kernel_bytes: int,
        zone: Zone | None = None,
    ) -> None:
        self.name = name
        self.zone = zone
        self.events = events
        up_burst = max(burst_bytes, int(up_bytes_per_second * BURST_SECONDS)) if burst_bytes else 0
        self.uplink = Uplink(events, up_bytes_per_second, up_burst, self._left)
        self._down_burst_seconds = max(burst_bytes / down_bytes_per_second, BURST_SECONDS) if burst_bytes else 0.0
        self.down_bytes_per_second = down_bytes_per_second
        self.latency_seconds = latency_seconds
        self.down_free_at = -_NEVER
        self._incoming_bytes = 0
        self._queue_bytes = burst_bytes + int(down_bytes_per_second * QUEUE_SECONDS)
        self.flows: dict[str, Flow] = {}
        self._window_bytes = window_bytes
        self._kernel_bytes = kernel_bytes
        self.longest_control_seconds = 0.0
        self.frozen = False
        self.paced = False
        self._inbox: list[Callable[[], None]] = []

    def receive(self, sender: "Host", item: Any) -> None:
        """Something arrived whole."""
        raise NotImplementedError

    def written(self, item: Any) -> None:
        """The kernel has taken the last byte of a piece."""
        raise NotImplementedError

    def flow_to(self, receiver: "Host") -> Flow:
        """The connection to `receiver`, our direction; made when there is none."""
        flow = self.flows.get(receiver.name)
        if flow is None:
            flow = self.flows[receiver.name] = Flow(self, receiver)
        return flow

    def send_piece(self, receiver: "Host", generation: int, size_bytes: int, item: Any) -> None:
        """Queue a piece of a generation."""
        flow = self.flow_to(receiver)
        flow.queued_pieces += 1
        flow.lanes.setdefault(generation, deque()).append(Queued(item, size_bytes + PIECE_HEADER_BYTES))
        self._feed(flow)

    def send_control(self, receiver: "Host", item: Any) -> None:
        """Send a small frame, behind what the kernel has for this receiver."""
        flow = self.flow_to(receiver)
        self.uplink.take(CONTROL_FRAME_BYTES)
        now = self.events.now
        if flow.kernel:
            flow.kernel[-1].riders.append((now, item))
            return
        left = now + self.uplink.control_delay_seconds
        for pipe in self._pipes(receiver):
            left = max(left, pipe.take(left, CONTROL_FRAME_BYTES)[1])
        arrives = max(left, receiver.down_free_at) + self.latency_seconds
        self.events.at(arrives, self._control_arrived, flow, now, item)

    def close_flow(self, peer: str) -> None:
        """Drop our direction of a connection, with all that is under way on it."""
        flow = self.flows.pop(peer, None)
        if flow is not None:
            flow.closed = True
            flow.receiver._incoming_bytes -= flow.in_flight_bytes
            self.uplink.forget()

    def take_queued(self, peer: str, generation: int | None = None) -> list[Any]:
        """Take back the pieces towards `peer`, of one generation or of all, of which the kernel has nothing."""
        flow = self.flows.get(peer)
        if flow is None:
            return []
        taken: list[Any] = []
        for number, lane in list(flow.lanes.items()):
            if generation is None or number == generation:
                taken += [entry.item for entry in lane if not entry.begun]
                begun = deque(entry for entry in lane if entry.begun)
                if begun:
                    flow.lanes[number] = begun
                else:
                    del flow.lanes[number]
        return taken

    def freeze(self) -> None:
        """The process stands still: its kernel takes and sends what it has room for, and nobody reads."""
        self.frozen = True

    def thaw(self) -> None:
        """The process goes on, with what the kernel has kept for it."""
        self.frozen = False
        inbox, self._inbox = self._inbox, []
        for arrive in inbox:
            arrive()
        for flow in list(self.flows.values()):
            self._feed(flow)

    def _pipes(self, receiver: "Host") -> list[Pipe]:
        """What stands between us and `receiver`, besides both links."""
        if self.zone is receiver.zone or self.zone is None or receiver.zone is None:
            return []
        return [pipe for pipe in (self.zone.out, receiver.zone.into) if pipe is not None]

    # From lanes to the kernel to the link.

    def _feed(self, flow: Flow) -> None:
        while flow.lanes and flow.kernel_bytes < self._kernel_bytes:
            generation, lane = flow.lanes.popitem(last=False)
            entry = lane[0]
            if flow.lanes and entry.rest_bytes > MAX_DATA_BYTES + PIECE_HEADER_BYTES:
                entry.rest_bytes -= MAX_DATA_BYTES
                entry.begun = True
                frame = Frame(flow, MAX_DATA_BYTES, None)
            else:
                lane.popleft()
                frame = Frame(flow, entry.rest_bytes, entry.item)
            if lane:
                flow.lanes[generation] = lane
            flow.kernel.append(frame)
            flow.kernel_bytes += frame.size_bytes
            if not flow.on_wire:
                self._next_frame(flow)
            if frame.item is not None and not self.paced:
                self.written(frame.item)

    def _next_frame(self, flow: Flow) -> None:
        on_its_way, receiver = flow.in_flight_bytes, flow.receiver
        queued = receiver._incoming_bytes
        if flow.kernel and (not on_its_way or (on_its_way < self._window_bytes and queued < receiver._queue_bytes)):
            flow.on_wire = True
            self.uplink.begin(flow.kernel[0])
        else:
            flow.on_wire = False

    def _left(self, frame: Frame) -> None:
        """The last byte of a frame is on its way."""
        flow = frame.flow
        flow.kernel.popleft()
        flow.kernel_bytes -= frame.size_bytes
        flow.in_flight_bytes += frame.size_bytes
        receiver = flow.receiver
        receiver._incoming_bytes += frame.size_bytes
        now = self.events.now
        if self.zone is receiver.zone:
            self._reach(frame, frame.began, now)
        else:
            self._pass(frame, self._pipes(receiver), frame.began, now)
        self._next_frame(flow)
        if self.paced and frame.item is not None:
            self.written(frame.item)
        if flow.lanes and not self.frozen:
            self._feed(flow)

    def _pass(self, frame: Frame, pipes: list[Pipe], came: float, through: float) -> None:
        """The first byte of a frame comes to the next pipe at `came`, or to the receiver's downlink."""
        if not pipes:
            self._reach(frame, came, through)
            return
        begun, last = pipes[0].take(came, frame.size_bytes)
        when = max(self.events.now, begun)
        self.events.at(when, self._pass, frame, pipes[1:], begun, max(through, last))

    def _reach(self, frame: Frame, came: float, through: float) -> None:
        """A frame begins to come to the receiver's downlink at `came`; its last byte doesn't before `through`."""
        receiver = frame.flow.receiver
        begun = max(receiver.down_free_at, came - receiver._down_burst_seconds)
        receiver.down_free_at = free = begun + frame.size_bytes / receiver.down_bytes_per_second
        self.events.at(max(through, free) + self.latency_seconds, self._arrived, frame)

    def _arrived(self, frame: Frame) -> None:
        flow = frame.flow
        if flow.closed:
            return
        if flow.receiver.frozen:
            flow.receiver._inbox.append(lambda: self._arrived(frame))
            return
        flow.in_flight_bytes -= frame.size_bytes
        flow.receiver._incoming_bytes -= frame.size_bytes
        if not flow.on_wire and flow.kernel:
            self._next_frame(flow)
        if frame.item is not None:
            flow.receiver.receive(self, frame.item)
        if frame.riders:
            for since, item in frame.riders:
                self._control_arrived(flow, since, item)

    def _control_arrived(self, flow: Flow, since: float, item: Any) -> None:
        if flow.closed:
            return
        if flow.receiver.frozen:
            flow.receiver._inbox.append(lambda: self._control_arrived(flow, since, item))
            return
        waited = self.events.now - since
        self.longest_control_seconds = max(self.longest_control_seconds, waited)
        flow.receiver.receive(self, item)
