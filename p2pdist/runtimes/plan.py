"""What a runtime's module answers when it is asked for the files that should be, and what it is asked with. Pure."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

EVERY_REGISTRY = "*"
"""Stands for all registries in a list of them, where a runtime can say so in one place."""


class Tree(Protocol):
    """The files of a host, by their absolute paths; an image's tree below a directory looks the same."""

    def read(self, path: PurePosixPath) -> bytes | None:
        """The content of a file, None where there is none; raises `MirrorError` when it can't be read."""

    def names(self, directory: PurePosixPath) -> list[str]:
        """What stands in a directory, sorted; nothing where there is none."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator asks for: a mirror at `shim` (HOST:PORT) for `registries`.

    `named`: he named them himself. Else they are what the agent knows, perhaps nothing, and a runtime that can send
    every registry to its mirror does that.
    """

    shim: str
    registries: tuple[str, ...] = ()
    named: bool = False

    @property
    def url(self) -> str:
        """The shim as a base URL; plain HTTP, since it doesn't leave the host."""
        return f"http://{self.shim}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The files that should be, whole, and what is left to a person, as sentences."""

    files: Mapping[PurePosixPath, bytes]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What a runtime's configuration says now of a mirror: for which registries, in which files, what keeps it back."""

    registries: tuple[str, ...] = ()
    files: tuple[PurePosixPath, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Runtime:
    """A container runtime: the programs that betray it, and its three questions.

    `reload`: how it comes to read its files, as they are now, again.
    """

    name: str
    title: str
    programs: Collection[str]
    reload: Callable[[Tree], str]
    plan: Callable[[Tree, Wish], Plan]
    reading: Callable[[Tree, str], Reading]
