"""The agent's certificate while it runs: the next one is asked for when two thirds of its time are over."""

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import trio

from p2pdist.agent.control import ControlLink
from p2pdist.pki import contexts, enrolment
from p2pdist.pki.identity import Identity
from p2pdist.telemetry.logging import get_logger
from p2pdist.wire.messages import Enrolled, Renew

CHECK_SECONDS = 3600.0
ANSWER_SECONDS = 60.0
log = get_logger("agent.renewal")


class Renewal:
    """Keeps `identity` valid; `shown` are the contexts that show it. Connections that stand go on with the old one."""

    def __init__(self, directory: Path, identity: Identity, shown: Sequence[ssl.SSLContext]) -> None:
        self.identity = identity
        self._directory = directory
        self._shown = shown
        # One place: an answer that nobody waits for any more is as good as the next.
        self._tell, self._told = trio.open_memory_channel[Enrolled](1)

    def answered(self, answer: Enrolled) -> None:
        """The tracker issued a certificate."""
        try:
            self._tell.send_nowait(answer)
        except trio.WouldBlock:
            log.warning("certificate_ignored", reason="another one waits already")

    async def run(self, control: ControlLink) -> None:
        """Look every hour; a renewal that fails is tried again then."""
        while True:
            try:
                if datetime.now(UTC) >= self.identity.renew_after and control.connected:
                    await self._renew(control)
            except Exception as error:
                log.exception("certificate_not_renewed", error)
            await trio.sleep(CHECK_SECONDS)

    async def _renew(self, control: ControlLink) -> None:
        control.say(Renew(enrolment.make_csr(self.identity.key, self.identity.peer.name)))
        with trio.move_on_after(ANSWER_SECONDS) as waited:
            answer = await self._told.receive()
        if waited.cancelled_caught:
            log.warning("certificate_not_renewed", reason=f"the tracker gave none within {ANSWER_SECONDS:g} s")
            return
        stored = await trio.to_thread.run_sync(Identity.store, self._directory, answer.certificate_pem, answer.ca_pem)
        self.identity = stored
        for context in self._shown:
            contexts.reload(context, stored.credentials)
        log.info("certificate_renewed", until=stored.validity.not_after.isoformat())
