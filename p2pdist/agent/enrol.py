"""How this host becomes an agent of the fleet: once, with a join token and the CA's pinned hash."""

import ssl
from pathlib import Path

import trio

from p2pdist.agent.control_errors import said_by_the_system
from p2pdist.config.schema import TrackerAccess
from p2pdist.core.errors import Denied, InvalidInput, ProtocolError, Unavailable
from p2pdist.pki import contexts, enrolment
from p2pdist.pki.errors import IdentityExpired, NotEnrolled
from p2pdist.pki.identity import Identity, open_key
from p2pdist.telemetry.logging import get_logger
from p2pdist.wire.channel import Channel
from p2pdist.wire.messages import VERSION, Enrol, Enrolled, FromTracker, Goodbye, Greeting

CONNECT_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
log = get_logger("agent.enrol")


async def identity_of(directory: Path, access: TrackerAccess, name: str) -> Identity:
    """The identity in `directory`, enrolling for it first if there is none.

    Waits for a tracker that isn't there. Raises `Denied` for a bad token, `UntrustedPeer` for another CA, and what
    `Identity.load` raises for files that an operator must mend.
    """
    try:
        return await trio.to_thread.run_sync(Identity.load, directory)
    except (NotEnrolled, IdentityExpired):
        if access.join_token is None:
            raise
    if access.ca_hash is None:
        raise InvalidInput("tracker.join_token needs tracker.ca_hash beside it (--ca-hash): p2pdist pki show prints it")
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await _enrol(directory, access, name)
        except Unavailable as error:
            log.warning("enrolment_waits", tracker=access.address, reason=str(error), again_seconds=pause)
            await trio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


async def _enrol(directory: Path, access: TrackerAccess, name: str) -> Identity:
    assert access.join_token is not None
    key = await trio.to_thread.run_sync(open_key, directory)
    try:
        with trio.fail_after(CONNECT_SECONDS):
            tcp = await trio.open_tcp_stream(access.address.host, access.address.port)
            async with tcp:
                stream = trio.SSLStream(tcp, contexts.enrolment_client(), https_compatible=True)
                await stream.do_handshake()
                channel = Channel(stream, FromTracker)
                greeting = await channel.receive()
                if greeting is None:
                    raise Unavailable(f"the tracker {access.address} hung up before it said anything")
                if not isinstance(greeting, Greeting):
                    raise ProtocolError(f"{access.address} doesn't greet like a tracker")
                if greeting.version != VERSION:
                    raise ProtocolError(
                        f"the tracker {access.address} speaks version {greeting.version} of the protocol, we {VERSION}"
                    )
                leaf = stream.getpeercert(binary_form=True) or b""
                enrolment.verify_tracker(greeting.ca_der, leaf, str(access.ca_hash))
                csr = enrolment.make_csr(key, name)
                await channel.send(Enrol(str(access.join_token), csr, name))
                answer = await channel.receive()
    except trio.TooSlowError:
        raise Unavailable(f"the tracker {access.address} doesn't answer within {CONNECT_SECONDS:g} s") from None
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        # Whatever stands in front of a tracker that is down takes connections and hangs up: that isn't another service.
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            raise ProtocolError(f"the tracker {access.address}: {contexts.explain(cause)}") from error
        raise Unavailable(f"the tracker {access.address}: the connection broke") from error
    except OSError as error:
        raise Unavailable(f"the tracker {access.address} can't be reached: {said_by_the_system(error)}") from error
    match answer:
        case Enrolled(certificate_pem, ca_pem):
            identity = await trio.to_thread.run_sync(Identity.store, directory, certificate_pem, ca_pem)
            log.info("enrolled", node=identity.peer.id, until=identity.validity.not_after.isoformat())
            return identity
        case Goodbye(reason):
            raise Denied(f"the tracker {access.address} refuses to enrol this host: {reason}")
        case None:
            raise Unavailable(f"the tracker {access.address} hung up during enrolment")
        case _:
            raise ProtocolError(f"the tracker {access.address} answers an enrolment with {type(answer).__name__}")


def plain_is_fine(access: TrackerAccess, is_loopback: bool) -> bool:
    """Whether to speak to the tracker without TLS; raises `InvalidInput` where that would be careless."""
    if access.join_token is not None or access.ca_hash is not None:
        return False
    if is_loopback:
        log.info("control_is_plain", reason="this host isn't enrolled, and the tracker is on the loopback")
        return True
    if access.insecure:
        log.warning("control_is_plain", reason="tracker.insecure is set: anybody on the way can change what is said")
        return True
    raise InvalidInput(
        f"this host isn't enrolled with {access.address}: give it a join token (p2pdist agent --join TOKEN --ca-hash"
        " HASH), or set tracker.insecure = true"
    )
