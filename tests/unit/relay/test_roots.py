"""Pieces that nobody dealt: members that have lost their tracker are the roots of what they got from elsewhere."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pdist.core.errors import DigestInvalid
from p2pdist.core.pieces import piece_hash
from p2pdist.pki.peers import id_of
from p2pdist.pki.vouch import BlobContext, Signer
from p2pdist.relay.notices import BadPiece, PeerRejected, TransferFailed
from p2pdist.relay.spans import Ring
from tests.unit.relay.fleet import GENERATION as ENGINES
from tests.unit.relay.fleet import Fleet as Engines
from tests.unit.relay.test_engine import names
from tests.unit.relay.test_node import GENERATION, WAIT_SECONDS, Fleet

PIECE_BYTES = 32768


@settings(deadline=None, max_examples=60)
@given(data=st.data(), members=st.integers(2, 30), pieces=st.integers(1, 30), seed=st.integers(0, 1 << 30))
def test_what_members_root_every_other_member_gets_once(
    data: st.DataObject, members: int, pieces: int, seed: int
) -> None:
    leaves = tuple(f"leaf{number}" for number in range(data.draw(st.integers(0, 3))))
    fleet = Engines(pieces, names(members), seed, leaves=leaves)
    roots = [data.draw(st.sampled_from(fleet.members)) for _ in range(pieces)]
    for index, node in enumerate(roots):
        fleet.held[node].add(index)
        fleet.engines[node].root(ENGINES, 1, index, by_offer=False)
    fleet.run()
    everybody = [*fleet.members, *leaves]
    assert fleet.received == {
        (node, index): 1 for node in everybody for index, root in enumerate(roots) if node != root
    }
    assert all(not engine.unfinished(ENGINES) for engine in fleet.engines.values())


@settings(deadline=None, max_examples=60)
@given(data=st.data(), members=st.integers(2, 20), seed=st.integers(0, 1 << 30))
def test_what_is_rooted_by_offer_goes_only_to_who_lacks_it(data: st.DataObject, members: int, seed: int) -> None:
    fleet = Engines(1, names(members), seed)
    root = data.draw(st.sampled_from(fleet.members))
    have = data.draw(st.sets(st.sampled_from(fleet.members))) | {root}
    for node in have:
        fleet.held[node].add(0)
    fleet.engines[root].root(ENGINES, 1, 0, by_offer=True)
    fleet.run()
    assert fleet.received == {(node, 0): 1 for node in fleet.members if node not in have}


@settings(deadline=None, max_examples=60)
@given(data=st.data(), members=st.integers(3, 20), seed=st.integers(0, 1 << 30))
def test_members_that_are_gone_are_left_out(data: st.DataObject, members: int, seed: int) -> None:
    fleet = Engines(4, names(members), seed)
    root, *dead = data.draw(st.lists(st.sampled_from(fleet.members), unique=True, min_size=1, max_size=members - 1))
    for node in dead:
        fleet.die(node)
        fleet.notice(node)
    for index in range(4):
        fleet.held[root].add(index)
        fleet.engines[root].root(ENGINES, 1, index, by_offer=False)
    fleet.run()
    assert all(not fleet.lacking(node) for node in fleet.members if node not in dead)


def test_only_who_stands_on_the_ring_can_be_a_root() -> None:
    fleet = Engines(1, names(3), leaves=("leaf",))
    fleet.held["leaf"].add(0)
    fleet.engines["leaf"].root(ENGINES, 1, 0, by_offer=False)
    fleet.engines["n0"].root(ENGINES, 9, 0, by_offer=False)
    assert not fleet.engines["leaf"].take_actions()
    assert not fleet.engines["n0"].take_actions()


class Orphans(Fleet):
    """Agents with keys, whose tracker never deals anything."""

    def __init__(self, stack: ExitStack, agents: int, pieces: int) -> None:
        signers = [Signer(Ed25519PrivateKey.generate(), agent=True) for _ in range(agents)]
        self.signers = {id_of(signer.public_key): signer for signer in signers}
        super().__init__(stack, agents, pieces * PIECE_BYTES, PIECE_BYTES, [*self.signers])
        for name in self.names:
            self.open(name)
            self.nodes[name].add_ring(GENERATION, Ring(1, self.names, "tracker"))

    def piece(self, index: int) -> bytes:
        return self.data[index * PIECE_BYTES : (index + 1) * PIECE_BYTES]

    def inject(self, name: str, index: int, data: bytes | None = None) -> None:
        """What a rescue does with a piece from the origin."""
        context = BlobContext(self.digest, self.layout.size_bytes, self.layout.piece_bytes, GENERATION)
        hashed = piece_hash(self.layout, data or self.piece(index))
        (vouch,) = self.signers[name].vouch(context, index, [hashed])
        self.files[name].write_piece(index, data or self.piece(index))
        self.nodes[name].inject(GENERATION, 1, [(index, hashed, vouch.encode())])


@contextmanager
def orphans(agents: int, pieces: int) -> Iterator[Orphans]:
    with ExitStack() as stack:
        yield Orphans(stack, agents, pieces)


def test_each_gets_what_the_others_fetched() -> None:
    with orphans(5, 40) as fleet:
        for node in fleet.nodes.values():
            node.set_alone(True)
        for index in range(40):
            fleet.inject(fleet.names[index % 5], index)
        for name in fleet.names:
            assert fleet.files[name].whole.wait(WAIT_SECONDS)
            assert fleet.files[name].content() == fleet.data
        assert sum(counts.relayed_bytes for counts in fleet.counts.values()) == 4 * len(fleet.data)
        assert sum(counts.duplicate_bytes for counts in fleet.counts.values()) == 0


def test_who_has_a_tracker_waits_with_what_agents_vouch_for() -> None:
    with orphans(3, 1) as fleet:
        fetcher, orphan, other = fleet.names
        for name in (fetcher, orphan):
            fleet.nodes[name].set_alone(True)
        fleet.inject(fetcher, 0)
        assert fleet.files[orphan].whole.wait(WAIT_SECONDS)
        assert not fleet.files[other].pieces
        fleet.nodes[other].set_alone(True)
        assert fleet.files[other].whole.wait(WAIT_SECONDS)


def test_who_lied_once_is_believed_no_more() -> None:
    with orphans(3, 2) as fleet:
        liar, honest, wary = fleet.names
        for node in fleet.nodes.values():
            node.set_alone(True)
        fleet.nodes[wary].distrust([liar])
        fleet.inject(liar, 0)
        fleet.inject(honest, 1)
        for name in (liar, honest):
            assert fleet.files[name].whole.wait(WAIT_SECONDS)
        fleet.files[wary].write_piece(0, fleet.piece(0))
        assert fleet.files[wary].whole.wait(WAIT_SECONDS)
        assert [*fleet.counts[wary].received_from] == [honest]
        refused = [each for name in fleet.names for each in fleet.notices[name]]
        assert not [each for each in refused if isinstance(each, PeerRejected | BadPiece)]


def test_other_bytes_than_we_have_end_our_part() -> None:
    with orphans(2, 2) as fleet:
        liar, honest = fleet.names
        for node in fleet.nodes.values():
            node.set_alone(True)
        fleet.files[honest].write_piece(0, fleet.piece(0))
        fleet.inject(liar, 0, bytes(PIECE_BYTES))
        failed = fleet.await_notice(honest, lambda notice: isinstance(notice, TransferFailed))
        assert isinstance(failed, TransferFailed)
        assert isinstance(failed.error, DigestInvalid)
        assert fleet.files[honest].content()[:PIECE_BYTES] == fleet.piece(0)
