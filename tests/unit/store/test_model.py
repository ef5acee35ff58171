"""The store against a model of it: dictionaries, and a list in the order of use."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, DigestInvalid
from p2pdist.core.metainfo import file_name
from p2pdist.store import BlobBusy, BlobStore, BlobUnverified, PartialBlob, PiecesMissing, StoreFull

from .samples import PIECE, content, die, in_memory, layout_of, piece

QUOTA = 8 * PIECE
CONTENTS = [content(number, size) for number, size in enumerate([1, PIECE, 2 * PIECE + 1, 3 * PIECE, 5 * PIECE - 1])]
DATA = {Digest.of(data): data for data in [b"", *CONTENTS]}
blobs = st.sampled_from(sorted(DATA))


class StoreMachine(RuleBasedStateMachine):
    pins = Bundle("pins")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="store-model-", dir=in_memory()))
        self.boot = 0
        self.whole: list[Digest] = []
        self.unverified: set[Digest] = set()
        self.damaged: set[Digest] = set()
        self.partials: dict[Digest, PartialBlob] = {}
        self.pieces: dict[Digest, set[int]] = {}
        self.spoilt: set[Digest] = set()
        self.pinned: dict[contextlib.ExitStack, Digest] = {}
        self.told: list[Digest] = []
        self.gone: list[Digest] = []

    @initialize()
    def open(self) -> None:
        boot_id = self.directory / "boot_id"
        boot_id.write_text(str(self.boot))
        self.store = BlobStore.open(self.directory / "store", quota_bytes=QUOTA, boot_id_path=boot_id)
        self.store.on_evicted(self.told.append)

    def leave(self, digest: Digest) -> None:
        self.whole.remove(digest)
        self.unverified.discard(digest)
        self.damaged.discard(digest)
        self.gone.append(digest)

    # Beginning, writing, ending

    @rule(digest=blobs)
    def begin(self, digest: Digest) -> None:
        data = DATA[digest]

        def attempt() -> PartialBlob:
            return self.store.begin(digest, layout_of(data))

        if digest in self.partials or (digest in self.whole and digest not in self.unverified):
            with pytest.raises(BlobBusy):
                attempt()
            return
        if digest in self.whole:
            with pytest.raises(BlobUnverified):
                attempt()
            return
        victims = self.victims(len(data))
        if victims is None:
            with pytest.raises(StoreFull):
                attempt()
            return
        self.partials[digest] = attempt()
        self.pieces[digest] = set()
        for victim in victims:
            self.leave(victim)

    def victims(self, size_bytes: int) -> list[Digest] | None:
        used = sum(len(DATA[digest]) for digest in [*self.whole, *self.partials])
        over = used + size_bytes - QUOTA
        victims = []
        for digest in self.whole:
            if over > 0 and DATA[digest] and digest not in self.pinned.values():
                victims.append(digest)
                over -= len(DATA[digest])
        return None if over > 0 else victims

    @rule(digest=blobs, index=st.integers(0, 4), how=st.sampled_from(["write", "mark", "spoil"]))
    def add_piece(self, digest: Digest, index: int, how: str) -> None:
        partial = self.partials.get(digest)
        if partial is None or index >= partial.layout.count:
            return
        new = index not in self.pieces[digest]
        data = piece(DATA[digest], index)
        if how == "write":
            assert partial.write_piece(index, data) == new
        else:
            if new:
                wrong = how == "spoil"
                with partial.path.open("r+b") as file:
                    file.seek(index * PIECE)
                    file.write(bytes(len(data)) if wrong else data)
                self.spoilt |= {digest} if wrong else set()
            assert partial.mark_piece(index) == new
        self.pieces[digest].add(index)

    @rule(digest=blobs)
    def hash_prefix(self, digest: Digest) -> None:
        partial = self.partials.get(digest)
        if partial is not None:
            assert partial.hash_prefix() == partial.contiguous_bytes

    @rule(digest=blobs)
    def commit(self, digest: Digest) -> None:
        partial = self.partials.get(digest)
        if partial is None:
            return
        if len(self.pieces[digest]) < partial.layout.count:
            with pytest.raises(PiecesMissing):
                partial.commit()
        elif digest in self.spoilt:
            with pytest.raises(DigestInvalid):
                partial.commit()
        else:
            partial.commit()
            self.whole.append(digest)
            self.end_partial(digest)

    @rule(digest=blobs)
    def discard(self, digest: Digest) -> None:
        if digest in self.partials:
            self.partials[digest].discard()
            self.end_partial(digest)

    def end_partial(self, digest: Digest) -> None:
        del self.partials[digest]
        del self.pieces[digest]
        self.spoilt.discard(digest)

    @rule(digest=blobs)
    def remove(self, digest: Digest) -> None:
        assert self.store.remove(digest) == (digest in self.whole)
        if digest in self.whole:
            self.leave(digest)

    @rule(digest=blobs)
    def quarantine(self, digest: Digest) -> None:
        self.store.quarantine(digest, "the model says so")
        assert self.store.quarantined()[0].digest == digest
        if digest in self.whole:
            self.leave(digest)
        elif digest in self.partials:
            self.end_partial(digest)

    # Reading

    @rule(target=pins, digest=blobs)
    def pin(self, digest: Digest) -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        if digest in self.whole:
            self.whole.remove(digest)
            self.whole.append(digest)
        if digest in self.unverified:
            with pytest.raises(BlobUnverified):
                stack.enter_context(self.store.committed(digest))
        elif digest in self.whole:
            blob = stack.enter_context(self.store.committed(digest))
            assert os.pread(blob.fd, blob.size_bytes + 1, 0) == DATA[digest]
            self.pinned[stack] = digest
            stack.callback(self.pinned.pop, stack)
        else:
            with pytest.raises(BlobUnknown):
                stack.enter_context(self.store.committed(digest))
        return stack

    @rule(stack=consumes(pins))
    def unpin(self, stack: contextlib.ExitStack) -> None:
        stack.close()

    @rule(digest=blobs)
    def verify(self, digest: Digest) -> None:
        if digest not in self.whole:
            with pytest.raises(BlobUnknown):
                self.store.verify(digest)
            return
        self.whole.remove(digest)
        self.whole.append(digest)
        assert self.store.verify(digest) == (digest not in self.damaged)
        self.unverified.discard(digest)
        if digest in self.damaged:
            self.leave(digest)

    # Restarts

    def reopen(self, close: Callable[[], None]) -> None:
        for stack in list(self.pinned):
            stack.close()
        close()
        self.partials.clear()
        self.pieces.clear()
        self.spoilt.clear()
        self.open()
        assert self.store.opening.lost == ()

    @rule()
    def restart(self) -> None:
        self.reopen(self.store.close)
        assert self.store.opening.leftovers == 0

    @rule()
    def kill(self) -> None:
        leftovers = len(self.partials)
        order = self.order()
        self.reopen(lambda: die(self.store))
        assert self.store.opening.leftovers == leftovers
        # Uses since the last transaction are forgotten by a killed process: the order may be an older one.
        assert sorted(order) == sorted(self.order())
        self.whole = self.order()

    @precondition(lambda self: self.whole)
    @rule(harm=st.booleans(), which=st.integers(0, 5))
    def crash(self, harm: bool, which: int) -> None:
        if harm and (digest := self.whole[which % len(self.whole)]) not in self.damaged and DATA[digest]:
            (self.store.save_path / file_name(digest)).write_bytes(bytes(len(DATA[digest])))
            self.damaged.add(digest)
        self.boot += 1
        self.reopen(lambda: die(self.store))
        self.unverified = set(self.whole)
        self.whole = self.order()

    def order(self) -> list[Digest]:
        return [entry.digest for entry in self.store._index.entries()]

    # What always holds

    @invariant()
    def agrees(self) -> None:
        served = [digest for digest in self.whole if digest not in self.unverified]
        assert list(self.store.digests()) == [(digest, len(DATA[digest])) for digest in served]
        assert self.store.unverified() == [digest for digest in reversed(self.whole) if digest in self.unverified]
        assert [digest for digest in DATA if self.store.has(digest)] == [digest for digest in DATA if digest in served]
        assert self.store.used_bytes == sum(len(DATA[digest]) for digest in self.whole)
        assert self.told == self.gone
        files = {path.name for path in self.store.save_path.iterdir()}
        assert files == {file_name(digest) for digest in [*self.whole, *self.partials]}
        for digest, partial in self.partials.items():
            assert self.store.partial(digest) is partial
            assert set(partial.pieces) == self.pieces[digest]

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for stack in list(self.pinned):
                stack.close()
            self.store.close()
        shutil.rmtree(self.directory)


StoreMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_the_store_does_what_the_model_does = StoreMachine.TestCase
