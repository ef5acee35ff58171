"""What was changed for a runtime and what was there before: written beside the agent's state, one record a runtime.

A change is planned from the files as they would be without us (`Base`), so that a second installation, or one with
other registries, changes what differs and nothing else, and never takes our own text for the user's. The record is
written before the files, with what they were and the digest of what they become. So at every point a file is what it
was, what we made of it, or what somebody else made of it since. The last kind we never touch: undoing it would throw
his edit away, and so it is refused, unless nothing of ours is in it any more; then it stays as he left it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import msgspec

from p2pdist.core.digest import Digest
from p2pdist.runtimes.errors import EditedMeanwhile, MirrorError
from p2pdist.runtimes.plan import Plan, Runtime, Wish
from p2pdist.runtimes.tree import HostTree

DIRECTORY = PurePosixPath("/var/lib/p2pdist/mirror")
_PRIVATE = 0o600
"""Of records: what they keep can hold credentials (hosts.toml's headers)."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file that was changed: what it was (None: it wasn't there), and the digests of what we made of it.

    `after` has more than one digest only while a change is being made. `directories` were made for it, outermost first.
    """

    path: str
    before: bytes | None
    after: list[str]
    directories: list[str]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was done for a runtime: a mirror at `shim` (HOST:PORT)."""

    shim: str
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Change:
    """A file that an installation or its undoing changes: its content before and after, None where it isn't there."""

    path: PurePosixPath
    before: bytes | None
    after: bytes | None


class Base:
    """The tree without our own changes."""

    def __init__(self, tree: HostTree, record: Record) -> None:
        self._tree = tree
        self._entries = {PurePosixPath(entry.path): entry for entry in record.entries}

    def read(self, path: PurePosixPath) -> bytes | None:
        """What stands at `path`, or stood there before us."""
        there = self._tree.read(path)
        entry = self._entries.get(path)
        return entry.before if entry is not None and _is_ours(there, entry) else there

    def names(self, directory: PurePosixPath) -> list[str]:
        """What stands in a directory that we didn't put there."""
        made = {path for path in self._entries if self.read(path) is None}
        made |= {PurePosixPath(each) for path in made for each in self._entries[path].directories}
        names = self._tree.names(directory)
        return [name for name in names if directory / name not in made or self._holds_more(directory / name, made)]

    def _holds_more(self, path: PurePosixPath, made: set[PurePosixPath]) -> bool:
        return any(path / name not in made or self._holds_more(path / name, made) for name in self._tree.names(path))


def load(tree: HostTree, runtime: Runtime) -> Record | None:
    """The record of a runtime; raises `MirrorError` when it is damaged."""
    return _load(tree, _path(runtime))


def _load(tree: HostTree, path: PurePosixPath) -> Record | None:
    data = tree.read(path)
    try:
        return None if data is None else msgspec.json.decode(data, type=Record)
    except msgspec.DecodeError as error:
        raise MirrorError(f"{path}, the record of what was changed, can't be read: {error}") from error


def _records(tree: HostTree) -> Iterator[Record]:
    """Those of all runtimes."""
    for name in tree.names(DIRECTORY):
        record = _load(tree, DIRECTORY / name)
        if record is not None:
            yield record


def install(tree: HostTree, runtime: Runtime, wish: Wish, *, dry_run: bool = False) -> tuple[Plan, list[Change]]:
    """Make the files what `runtime` plans for `wish`, and say what changed; raises before anything is.

    A file that an earlier installation changed and this one doesn't want is put back.
    """
    record = load(tree, runtime) or Record(shim=wish.shim, entries=[])
    plan = runtime.plan(Base(tree, record), wish)
    changes = list(_changes(tree, record, plan.files))
    if changes and not dry_run:
        _write(tree, runtime, wish.shim, record, changes)
    return plan, changes


def remove(tree: HostTree, runtime: Runtime, *, dry_run: bool = False) -> tuple[list[Change], list[str]]:
    """Put everything back; returns what changed, and notes on what was left. Raises before anything is changed.

    Nothing happens when there is no record.
    """
    record = load(tree, runtime)
    if record is None:
        return [], []
    changes, notes = [], []
    for entry in record.entries:
        path = PurePosixPath(entry.path)
        there = tree.read(path)
        if there == entry.before:
            continue
        if _is_ours(there, entry):
            changes.append(Change(path, there, entry.before))
        elif there is None or record.shim.encode() not in there:
            notes.append(f"{path} was changed since, and nothing of ours is in it any more: it stays as it is")
        else:
            raise EditedMeanwhile(
                f"{path} was edited after `p2pdist mirror install {runtime.name}`, and undoing that would lose the"
                f" edit: take what names {record.shim} out of it yourself, then run this again"
            )
    if not dry_run:
        for change in changes:
            _put(tree, change)
        for entry in record.entries:
            _remove_directories(tree, entry)
        tree.remove(_path(runtime))
        tree.remove_directory(DIRECTORY)
    return changes, notes


def _changes(tree: HostTree, record: Record, files: Mapping[PurePosixPath, bytes]) -> Iterator[Change]:
    """From what is there to what `files` says; raises `EditedMeanwhile` where that would lose an edit."""
    entries = {PurePosixPath(entry.path): entry for entry in record.entries}
    wanted: dict[PurePosixPath, bytes | None] = {path: entry.before for path, entry in entries.items()}
    for path, after in {**wanted, **files}.items():
        there = tree.read(path)
        if there == after:
            continue
        entry = entries.get(path)
        edited = entry is not None and not _is_ours(there, entry) and there != entry.before
        if edited and there is not None and record.shim.encode() in there:
            raise EditedMeanwhile(
                f"{path} was edited after the last `p2pdist mirror install`; take what names {record.shim} out of it"
                " yourself, then run this again"
            )
        if not (edited and path not in files):
            yield Change(path, there, after)


def _write(tree: HostTree, runtime: Runtime, shim: str, record: Record, changes: list[Change]) -> None:
    """The record, then the files, then the record without what the files no longer are."""
    entries = {entry.path: entry for entry in record.entries}
    for change in changes:
        entries[str(change.path)] = _entry(tree, change, entries.get(str(change.path)))
    _save(tree, runtime, Record(shim=shim, entries=list(entries.values())))
    for change in changes:
        _put(tree, change)
    for path, entry in list(entries.items()):
        there = tree.read(PurePosixPath(path))
        if there == entry.before:
            _remove_directories(tree, entry)
            del entries[path]
        elif there is not None and _is_ours(there, entry):
            entries[path] = msgspec.structs.replace(entry, after=[_digest(there)])
    _save(tree, runtime, Record(shim=shim, entries=list(entries.values())))


def _entry(tree: HostTree, change: Change, old: Entry | None) -> Entry:
    """The entry of a file that is about to change; one that was changed before keeps what it was at first.

    A directory that was made for another runtime's file counts as made for this one too: the last to go takes it away.
    """
    after = [] if change.after is None else [_digest(change.after)]
    if old is None or not (_is_ours(change.before, old) or change.before == old.before):
        made = {each for record in _records(tree) for entry in record.entries for each in entry.directories}
        missing = tree.missing_directories(change.path)
        directories = [str(each) for each in reversed(change.path.parents) if each in missing or str(each) in made]
        return Entry(path=str(change.path), before=change.before, after=after, directories=directories)
    return msgspec.structs.replace(old, after=[*old.after, *after])


def _save(tree: HostTree, runtime: Runtime, record: Record) -> None:
    tree.write(_path(runtime), msgspec.json.encode(record) + b"\n", _PRIVATE)


def _put(tree: HostTree, change: Change) -> None:
    if change.after is None:
        tree.remove(change.path)
    else:
        tree.write(change.path, change.after)


def _remove_directories(tree: HostTree, entry: Entry) -> None:
    for directory in reversed(entry.directories):
        tree.remove_directory(PurePosixPath(directory))


def _is_ours(there: bytes | None, entry: Entry) -> bool:
    return there is not None and _digest(there) in entry.after


def _digest(data: bytes) -> str:
    return str(Digest.of(data))


def _path(runtime: Runtime) -> PurePosixPath:
    return DIRECTORY / f"{runtime.name}.json"
