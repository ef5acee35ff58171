"""`GET /v1/explain?digest=PREFIX`: the account of one blob for the commands of this host."""

import os
import re
from collections.abc import Iterator
from typing import Literal

import msgspec
import trio

from p2pdist.agent.account import GAP_SECONDS, Account, Accounts, Interval
from p2pdist.agent.explained import Explanation, Held, PullAccount, Source, Step, Wait
from p2pdist.agent.relays import Relays
from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, InvalidInput, StoreError
from p2pdist.core.metainfo import file_name
from p2pdist.http.server import Request, Response
from p2pdist.store import BlobStore
from p2pdist.telemetry.events import By

_PREFIX = re.compile(r"(?:(sha256|sha512):)?([0-9a-f]{4,128})")
_SHOWN = 8


class Explainer:
    """Finds a blob by the beginning of its digest and tells what is known of it."""

    def __init__(self, node: str, name: str, accounts: Accounts, relays: Relays, store: BlobStore) -> None:
        self._node, self._name = node, name
        self._accounts = accounts
        self._relays = relays
        self._store = store

    async def handle(self, request: Request, response: Response) -> None:
        """The handler; raises `InvalidInput` and `BlobUnknown`."""
        wanted = request.query.get("digest", [])
        if len(wanted) != 1:
            raise InvalidInput("ask for one blob: /v1/explain?digest=sha256:… or the beginning of it")
        digest = self._find(wanted[0])
        held = await trio.to_thread.run_sync(self._held, digest)
        account = self._accounts.get(digest)
        pull = self._told(account) if account is not None else None
        answer = Explanation(digest=str(digest), node_id=self._node, name=self._name, pull=pull, held=held)
        await response.send(200, {"Content-Type": "application/json"}, msgspec.json.encode(answer) + b"\n")

    def _find(self, prefix: str) -> Digest:
        """The one blob whose digest begins so."""
        match = _PREFIX.fullmatch(prefix.lower())
        if match is None:
            raise InvalidInput(
                f"{prefix[:140]!r} isn't a digest: give sha256:<64 hex digits>, or at least the first 4 of the digits"
            )
        algorithm, digits = match.groups()
        found = {
            digest
            for digest in self._known()
            if digest.hex.startswith(digits) and algorithm in (None, digest.algorithm)
        }
        if not found:
            raise BlobUnknown(
                f"no blob whose digest begins with {prefix[:140]} was pulled lately or is held on this host; an image's"
                " digest isn't that of a blob: `p2pdist pull IMAGE` and `p2pdist status` list blobs"
            )
        if len(found) > 1:
            some = ", ".join(sorted(str(digest) for digest in found)[:_SHOWN])
            raise InvalidInput(f"{len(found)} blobs begin with {prefix[:140]}: {some}; give more digits")
        return found.pop()

    def _known(self) -> Iterator[Digest]:
        yield from self._accounts
        for digest, _ in self._store.digests():
            yield digest

    def _held(self, digest: Digest) -> Held | None:
        """In a worker thread: what the catalogue and the file say."""
        if not self._store.has(digest):
            return None
        try:
            record = self._store.record(digest)
        except StoreError:
            record = None
        if record is None:
            return None
        try:
            written_at = os.stat(self._store.save_path / file_name(digest)).st_mtime
        except OSError:
            written_at = None
        return Held(
            size_bytes=record.size_bytes,
            upstream=record.upstream,
            repository=record.repository,
            private=record.private,
            written_at=written_at,
        )

    def _told(self, account: Account) -> PullAccount:
        now = account.clock() if account.ended is None else account.ended
        began, tracker = account.began, self._relays.tracker
        sources = [
            Source(by=_by(by), node=node, name=self._name_of(by, node), bytes=size_bytes)
            for (by, node), size_bytes in account.received(tracker).items()
        ]
        came = account.first_at is not None
        return PullAccount(
            wanted_at=account.wanted_at,
            state=account.state.value,
            upstream=account.upstream,
            repository=account.repository,
            size_bytes=account.size_bytes or None,
            received_bytes=sum(source.bytes for source in sources),
            private=account.private,
            seconds=now - began,
            first_byte_seconds=account.first_at - began if account.first_at is not None else None,
            last_byte_seconds=account.last_at - began if came else None,
            commit_seconds=now - account.last_at if came and account.state == "held" else None,
            sources=sorted(sources, key=lambda source: -source.bytes),
            waits=[_wait(wait, began) for wait in account.waits_until(now)],
            waits_left_out=account.waits_left_out,
            gap_seconds=GAP_SECONDS,
            steps=[Step(at_seconds=at - began, what=what) for at, what in account.steps],
            steps_left_out=account.steps_left_out,
            overdue_pieces=account.overdue_pieces,
            redundant_bytes=sum(counts.duplicate_bytes for counts in account.relays),
            taken_over=sum(counts.taken_over for counts in account.relays),
            sent_bytes=sum(counts.sent_bytes for counts in account.relays),
            error=account.error or None,
        )

    def _name_of(self, by: By, node: str) -> str:
        if by is By.DEAL:
            return "tracker"
        return self._relays.name_of(node)


def _by(by: By) -> Literal["deal", "relay", "swarm", "origin"]:
    return by.value


def _wait(wait: Interval, began: float) -> Wait:
    return Wait(at_seconds=wait.since - began, seconds=wait.seconds, what=wait.what.value)
