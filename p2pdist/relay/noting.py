"""What the relay's thread tells the event log, when there is one: pieces in, pieces out, spans taken over."""

from p2pdist.relay.engine import Engine
from p2pdist.relay.frames import PieceFrame
from p2pdist.relay.transfer import Outgoing, Transfer
from p2pdist.telemetry.events import By, Event, EventLog


class Noting:
    """Puts names to what happens in one reactor, whose `engine` knows who deals."""

    def __init__(self, me: str, engine: Engine, events: EventLog) -> None:
        self._me = me
        self._engine = engine
        self._events = events

    def arrived(self, sender: str, transfer: Transfer, frame: PieceFrame, size_bytes: int, new: bool) -> None:
        """A whole, verified piece came; it was here before unless it is `new`."""
        dealt = self._engine.dealer(frame.generation, frame.epoch) == sender
        self._events.note(
            Event.RECEIVED if new else Event.REDUNDANT,
            transfer.spec.digest,
            peer=sender,
            by=By.DEAL if dealt else By.RELAY,
            piece=frame.piece,
            bytes=size_bytes,
            generation=frame.generation,
            epoch=frame.epoch,
        )

    def sent(self, outgoing: Outgoing) -> None:
        """All bytes of a piece have left; its generation may have been closed meanwhile."""
        transfer, frame, to = outgoing
        if frame.epoch in transfer.fills:
            event = Event.FILLED
        elif transfer.deals and self._deals(frame):
            event = Event.DEALT
        else:
            event = Event.PUSHED
        self._events.note(
            event,
            transfer.spec.digest,
            peer=to,
            piece=frame.piece,
            bytes=transfer.spec.layout.length(frame.piece),
            generation=frame.generation,
            epoch=frame.epoch,
        )

    def _deals(self, frame: PieceFrame) -> bool:
        if not self._engine.knows(frame.generation, frame.epoch):
            return True
        return self._engine.dealer(frame.generation, frame.epoch) == self._me

    def taken_over(self, lost: str, transfer: Transfer, index: int) -> None:
        """A span of `lost` goes to its heir."""
        generation = transfer.spec.generation
        self._events.note(Event.TAKEN_OVER, transfer.spec.digest, peer=lost, piece=index, generation=generation)
