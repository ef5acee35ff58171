"""Names of images: registry, repository, tag, digest (OCI distribution spec, "Definitions"; docker's defaults).

A name is checked where it enters and is a value of these types afterwards. Pure: doesn't know which registries are
configured or reachable.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

from p2pdist.core.digest import Digest
from p2pdist.oci.errors import NameInvalid

DOCKER_HUB = "docker.io"
_DEFAULT_TAG = "latest"
_MAX_NAME = 255
_MAX_REFERENCE = 2048

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?P<name>{_LABEL}(?:\.{_LABEL})*|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{{1,5}}))?")


def normalize_registry(text: str) -> str:
    """The canonical form of a registry's host[:port]; raises `NameInvalid` for what isn't one.

    Lower case, IPv6 compressed and in brackets, docker.io by one of its two names.
    """
    match = _HOST.fullmatch(text)
    if match is None or (match["port"] is not None and not 0 < int(match["port"]) < 65536):
        raise NameInvalid(f"{_shown(text)} isn't a registry; write host, host:port or [IPv6 address]:port")
    host = match["name"].lower()
    if match["ipv6"] is not None:
        try:
            host = f"[{ipaddress.IPv6Address(match['ipv6']).compressed}]"
        except ValueError:
            raise NameInvalid(f"{_shown(text)} isn't a registry: the brackets hold no IPv6 address") from None
    if match["port"] is not None:
        host += f":{int(match['port'])}"
    return DOCKER_HUB if host == "index.docker.io" else host


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """A registry and a path in it; `str()` is `docker.io/library/app`."""

    registry: str
    path: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "registry", normalize_registry(self.registry))
        if len(self.path) > _MAX_NAME or _PATH.fullmatch(self.path) is None:
            raise NameInvalid(
                f"{_shown(self.path)} isn't a repository; names are lower-case letters and digits, single separators "
                f"'.', '_', '-' between them, '/' between parts, {_MAX_NAME} characters at most"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The repository that `text` names, by docker's rules: `app` is `docker.io/library/app`.

        The part before the first slash is a registry when it has a dot or a colon, or is `localhost`. Raises
        `NameInvalid`.
        """
        first, slash, rest = text.partition("/")
        if not slash or not ("." in first or ":" in first or first == "localhost"):
            first, rest = DOCKER_HUB, text
        registry = normalize_registry(first)
        if registry == DOCKER_HUB and "/" not in rest:
            rest = f"library/{rest}"
        return cls(registry, rest)

    def __str__(self) -> str:
        return f"{self.registry}/{self.path}"


@dataclass(frozen=True, slots=True, order=True)
class Tag:
    """A name for a manifest that its owner may move."""

    name: str

    def __post_init__(self) -> None:
        if _TAG.fullmatch(self.name) is None:
            raise NameInvalid(
                f"{_shown(self.name)} isn't a tag; tags are 1 to 128 letters, digits, '_', '.' and '-', "
                "and don't start with '.' or '-'"
            )

    def __str__(self) -> str:
        return self.name


def parse_target(text: str) -> Tag | Digest:
    """The tag or digest behind `/manifests/` in a URL; raises `NameInvalid`, or `DigestInvalid` if there is a colon."""
    return Digest.parse(text) if ":" in text else Tag(text)


@dataclass(frozen=True, slots=True)
class Reference:
    """An image: a repository and a tag, a digest, or both; `str()` is the canonical form, which `parse` reads again."""

    repository: Repository
    tag: Tag | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if self.tag is None and self.digest is None:
            raise NameInvalid(f"{self.repository} has neither a tag nor a digest")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The image that a person means: `app`, `ghcr.io/team/app:1.2`, `[::1]:5000/app@sha256:…`.

        Without a registry it is docker.io's, without tag and digest it is the tag `latest`. Raises `NameInvalid` or
        `DigestInvalid`.
        """
        if len(text) > _MAX_REFERENCE:
            raise NameInvalid(f"{_shown(text)} is longer than any image reference ({_MAX_REFERENCE} characters)")
        name, at, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if at else None
        head, colon, tag_text = name.rpartition(":")
        if not colon or "/" in tag_text:
            head, tag = name, None
        else:
            tag = Tag(tag_text)
        if tag is None and digest is None:
            tag = Tag(_DEFAULT_TAG)
        return cls(Repository.parse(head), tag, digest)

    @property
    def target(self) -> Tag | Digest:
        """What to ask the registry for: the digest when there is one."""
        if self.digest is not None:
            return self.digest
        assert self.tag is not None
        return self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 140 else text[:140] + "…")
