"""What agents and trackers say to each other on the control connection.

Each message is a msgpack array whose first element names its type. A reader ignores elements behind those that it knows
and fills in missing ones that have a default, so that fields can be added at the end; what changes a meaning raises
VERSION. Numbers of sizes are bytes, of times seconds. Bitmaps of pieces are as in `core.pieces.PieceSet.to_bytes`;
bitmaps of members have one bit per slot of the tracker's table.

The order of a connection: the tracker sends Greeting. An agent without certificate sends Enrol, gets Enrolled, and
connects anew. Others send Hello and get Welcome and the whole Table; then both send what they have to say, and nobody
polls.
"""

from typing import Annotated, Any

import msgspec

from p2pdist.core.errors import ProtocolError

VERSION = 2
CAPABILITIES: tuple[str, ...] = ()
Text = Annotated[str, msgspec.Meta(max_length=1024)]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 42)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Generation = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Bitmap = Annotated[bytes, msgspec.Meta(max_length=1 << 20)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
GoodSeconds = Annotated[float, msgspec.Meta(ge=0, le=24 * 3600)]
"""For how long an answer counts for whoever it was given to."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A message; concrete ones stand below."""


class Endpoint(msgspec.Struct, frozen=True, array_like=True):
    """An address: a literal IPv4 or IPv6 address or a host name, and a TCP port."""

    host: Text
    port: Port


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A leased agent as the table shows it."""

    slot: Number
    node: Id
    name: Text
    zone: Text
    relay: Endpoint
    swarm: Endpoint


class Token(msgspec.Struct, frozen=True, array_like=True):
    """A caller's token for one repository; on connections of mutual TLS only, and shown by no repr."""

    value: Annotated[str, msgspec.Meta(min_length=1, max_length=16 * 1024)]

    def __repr__(self) -> str:
        return "Token(…)"


class UpstreamInfo(msgspec.Struct, frozen=True, array_like=True):
    """A registry that the fleet may speak to, where its bytes come from, for a rescue, and to whom they are given."""

    name: Text
    origin: Text
    access: Text = "client"


class HeldBlob(msgspec.Struct, frozen=True, array_like=True):
    """A whole blob in an agent's store."""

    digest: Text
    size_bytes: Size
    private: bool = False


class RingInfo(msgspec.Struct, frozen=True, array_like=True):
    """The ring of one epoch: its members, who deals to it, and the slow members beside it, who aren't in `members`."""

    epoch: Number
    members: Bitmap
    dealer: Id
    leaves: Bitmap = b""


# Either way.


class Beat(Message, frozen=True):
    """A sign of life; it renews the lease, and is answered with a Beat."""


class Probe(Message, frozen=True):
    """The tracker wants a sign of life at once, since somebody misses one; it is answered with a Beat."""


class Goodbye(Message, frozen=True):
    """The sender closes the connection, and why. `final`: there is no use in coming back without a change."""

    reason: Text
    final: bool = False


# What a tracker says first, and enrolment.


class Greeting(Message, frozen=True):
    """The first frame of a tracker; `ca_der` is its CA's certificate, empty without TLS."""

    version: Number
    capabilities: tuple[Text, ...]
    tracker: Id
    ca_der: bytes = b""


class Enrol(Message, frozen=True):
    """A host that has a join token asks for a certificate."""

    token: Text
    csr_pem: bytes
    name: Text


class Renew(Message, frozen=True):
    """An agent asks for its next certificate."""

    csr_pem: bytes


class Enrolled(Message, frozen=True):
    """The certificate that was asked for."""

    certificate_pem: bytes
    ca_pem: bytes


# What an agent says.


class Hello(Message, frozen=True):
    """Who the agent is and where it can be reached; an empty host stands for the address that it connects from."""

    version: Number
    capabilities: tuple[Text, ...]
    software: Text
    node: Id
    name: Text
    zone: Text
    relay_host: Text
    relay_port: Port
    swarm_host: Text
    swarm_port: Port


class Inventory(Message, frozen=True):
    """Whole blobs that the agent has got or lost since its last word; after a Hello, all that it holds."""

    added: tuple[HeldBlob, ...]
    removed: tuple[Text, ...] = ()


class ManifestWanted(Message, frozen=True):
    """The agent needs a manifest; exactly one of `tag` and `digest` is set. `token`: on whose behalf."""

    id: Number
    upstream: Text
    repository: Text
    tag: Text = ""
    digest: Text = ""
    token: Token | None = None


class SizeWanted(Message, frozen=True):
    """May somebody have this blob of this repository, and how large is it? The agent doesn't need its bytes (yet).

    `proof`: the agent has the bytes, from another upstream, so that this one's word that it has them isn't enough.
    `there`: the question is whether the upstream has it in this very repository; elsewhere doesn't count.
    """

    id: Number
    upstream: Text
    repository: Text
    digest: Text
    token: Token | None = None
    proof: bool = False
    there: bool = False


class Join(Message, frozen=True):
    """The agent wants a blob. `size_bytes` is what a manifest says of it, 0 if unknown.

    `held` is a bitmap of the pieces of `piece_bytes` that it has already, empty if none. `fruitless`: how many ways in
    a row have brought nothing. `token`: on whose behalf.
    """

    id: Number
    upstream: Text
    repository: Text
    digest: Text
    size_bytes: Size = 0
    piece_bytes: Number = 0
    held: Bitmap = b""
    fruitless: Number = 0
    token: Token | None = None


class Lacking(Message, frozen=True):
    """Pieces of a generation that haven't come although they should have."""

    generation: Generation
    missing: Bitmap


class Left(Message, frozen=True):
    """The agent is done with a generation: it holds the blob, or gave it up for the reason that is said."""

    generation: Generation
    reason: Text = ""


class Lagging(Message, frozen=True):
    """An agent to which pieces go more slowly than to its siblings."""

    node: Id


class Silent(Message, frozen=True):
    """An agent that gives no sign of life although it owes one."""

    node: Id


class Began(Message, frozen=True):
    """The agent deals over this epoch, as it was told by Deal; the newcomers lack what it had `dealt` before."""

    generation: Generation
    epoch: Number
    dealt: Bitmap


class DealsDone(Message, frozen=True):
    """All that the agent was told to deal of a generation is acknowledged."""

    generation: Generation


class Distrusted(Message, frozen=True):
    """Bytes that were vouched for hadn't the digest that they came for."""

    digest: Text
    generation: Generation
    reason: Text


# What a tracker says.


class Welcome(Message, frozen=True):
    """The lease is granted. `relay_secrets`: the one to prove with first. `keys`: raw Ed25519 keys that sign pieces."""

    node: Id
    slot: Number
    lease_seconds: float
    relay_secrets: tuple[bytes, ...]
    keys: tuple[bytes, ...]
    upstreams: tuple[UpstreamInfo, ...]
    relay_host: Text
    relay_port: Port


class Table(Message, frozen=True):
    """Who holds a lease: the whole table, or what changed since the last one."""

    whole: bool
    added: tuple[Member, ...]
    removed: tuple[Number, ...] = ()


class ManifestIs(Message, frozen=True):
    """The answer to ManifestWanted; `private`: the upstream gives it for a token, or for our credentials, only."""

    id: Number
    digest: Text
    media_type: Text
    body: bytes
    private: bool
    good_seconds: GoodSeconds = 0.0


class SizeIs(Message, frozen=True):
    """The answer to SizeWanted: yes, so many bytes; `private` as in ManifestIs."""

    id: Number
    size_bytes: Size
    private: bool = True
    good_seconds: GoodSeconds = 0.0


class Working(Message, frozen=True):
    """A question isn't forgotten: its answer takes longer, because an origin does. Whoever asked waits on."""

    id: Number


class Failed(Message, frozen=True):
    """The answer to anything that can't be done: an OCI error code, the HTTP status for it, and a sentence.

    `challenge`: what the caller is told who could bring a token (a WWW-Authenticate field).
    """

    id: Number
    code: Text
    status: Number
    message: Annotated[str, msgspec.Meta(max_length=4096)]
    challenge: Annotated[str, msgspec.Meta(max_length=4096)] = ""


class RelayPlan(Message, frozen=True):
    """The answer to Join: the blob is relayed, and the agent is a member of these rings from now on.

    Whoever gets everything by fills has no ring yet. `upstream` and `repository`: where the bytes come from, which
    says who may have them.
    """

    id: Number
    digest: Text
    size_bytes: Size
    piece_bytes: Number
    generation: Generation
    fan: Number
    private: bool
    rings: tuple[RingInfo, ...]
    upstream: Text = ""
    repository: Text = ""


class SwarmPlan(Message, frozen=True):
    """The answer to Join: agents hold the blob; here are its pieces' hashes (32 bytes each) and the neighbours.

    `upstream` and `repository` as in RelayPlan.
    """

    id: Number
    digest: Text
    size_bytes: Size
    piece_bytes: Number
    hashes: bytes
    neighbours: tuple[Endpoint, ...]
    upstream: Text = ""
    repository: Text = ""


class Epoch(Message, frozen=True):
    """New rings of a relay, of fills too, which have dealers of their own."""

    generation: Generation
    rings: tuple[RingInfo, ...]


class Fill(Message, frozen=True):
    """An order: be the dealer of these pieces over this ring, each as soon as you have it.

    `by_offer`: members may have them already. `lane` of `lanes`: which members to begin with, since so many deal over
    the same members (relay/dealing.py).
    """

    generation: Generation
    ring: RingInfo
    pieces: Bitmap
    by_offer: bool = False
    lane: Number = 0
    lanes: Annotated[int, msgspec.Meta(ge=1, lt=1 << 32)] = 1


class Supply(Message, frozen=True):
    """An order to a holder: take part in a generation with the blob that you have.

    `signatures` are the tracker's, of batches of successive pieces, 64 each but the last.
    """

    generation: Generation
    digest: Text
    size_bytes: Size
    piece_bytes: Number
    fan: Number
    private: bool
    key_id: bytes
    signatures: tuple[bytes, ...]


class Deal(Message, frozen=True):
    """An order to a holder that supplies: deal these pieces over this ring, in place of the one before it.

    A `share` is what one dealer deals; a ring without members ends it. The answer is Began.
    """

    generation: Generation
    share: Number
    ring: RingInfo
    pieces: Bitmap
    by_offer: bool = False
    lane: Number = 0
    lanes: Annotated[int, msgspec.Meta(ge=1, lt=1 << 32)] = 1


class Dealt(Message, frozen=True):
    """Every piece of a generation was dealt: what is still missing ought to come."""

    generation: Generation


class Ended(Message, frozen=True):
    """A generation is over. With a code it failed: the pieces must not be served."""

    generation: Generation
    code: Text = ""
    status: Number = 0
    message: Annotated[str, msgspec.Meta(max_length=4096)] = ""


class Expect(Message, frozen=True):
    """Peers will come for a blob that the agent holds."""

    digest: Text
    peers: tuple[Endpoint, ...]


FromTracker = (
    Beat
    | Probe
    | Goodbye
    | Greeting
    | Enrolled
    | Welcome
    | Table
    | ManifestIs
    | SizeIs
    | Working
    | Failed
    | RelayPlan
    | SwarmPlan
    | Epoch
    | Fill
    | Supply
    | Deal
    | Dealt
    | Ended
    | Expect
)
FromAgent = (
    Beat
    | Goodbye
    | Enrol
    | Renew
    | Hello
    | Inventory
    | ManifestWanted
    | SizeWanted
    | Join
    | Lacking
    | Left
    | Lagging
    | Silent
    | Began
    | DealsDone
    | Distrusted
)

_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """The msgpack of a message."""
    return _encoder.encode(message)


class Reader:
    """Decodes the messages that one end may send."""

    def __init__(self, messages: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(messages)

    def decode(self, frame: bytes | memoryview) -> Any:
        """The message in `frame`; raises `ProtocolError` for what isn't msgpack, an unknown type, or a wrong field."""
        try:
            return self._decoder.decode(frame)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ProtocolError(f"a control frame of {len(frame)} bytes isn't a message: {error}") from error


def members_bitmap(slots: list[int]) -> bytes:
    """The bitmap of these slots, slot 0 in the lowest bit of the first byte."""
    number = 0
    for slot in slots:
        number |= 1 << slot
    return number.to_bytes((number.bit_length() + 7) // 8, "little")


def slots_of(bitmap: bytes) -> list[int]:
    """The slots in a bitmap, ascending."""
    number = int.from_bytes(bitmap, "little")
    slots = []
    while number:
        lowest = number & -number
        slots.append(lowest.bit_length() - 1)
        number ^= lowest
    return slots
