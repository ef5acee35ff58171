"""What the path of a registry request names: an upstream, a repository in it, and something of that. Pure.

The upstream comes, in this order, from

- `?ns=<registry>`, which containerd sends to every mirror,
- a path in front, `/<registry>/v2/<repository>/…`: dockerd with a path in its mirror's URL,
- the first component of the name, `/v2/<registry>/<repository>/…`: podman locations with a path, and
  `docker pull 127.0.0.1:7500/<registry>/<repository>`; it is a registry when it looks like one and is configured,
- the listener's default.

Paths: OCI distribution spec, "Endpoints"; `docker.io` has its official images under `library/`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from p2pdist.core.digest import Digest
from p2pdist.core.errors import NotFound
from p2pdist.oci.errors import NameInvalid
from p2pdist.oci.reference import DOCKER_HUB, Repository, Tag, normalize_registry, parse_target

_BASE = "v2"


@dataclass(frozen=True, slots=True)
class VersionCheck:
    """`/v2/`: whether this is a registry at all."""


@dataclass(frozen=True, slots=True)
class ManifestRoute:
    """A manifest, by tag or digest."""

    upstream: str
    repository: str
    reference: Tag | Digest

    @property
    def rest(self) -> str:
        """What follows the repository in a path, fit for a request line."""
        return f"manifests/{self.reference}"


@dataclass(frozen=True, slots=True)
class BlobRoute:
    """A blob."""

    upstream: str
    repository: str
    digest: Digest

    @property
    def rest(self) -> str:
        """See `ManifestRoute`."""
        return f"blobs/{self.digest}"


@dataclass(frozen=True, slots=True)
class UploadRoute:
    """Where blobs are uploaded to: a session that the upstream named, or "" where sessions begin."""

    upstream: str
    repository: str
    session: str

    @property
    def rest(self) -> str:
        """See `ManifestRoute`."""
        return f"blobs/uploads/{quote(self.session, safe='=~')}"


@dataclass(frozen=True, slots=True)
class TagsRoute:
    """The list of a repository's tags."""

    upstream: str
    repository: str

    @property
    def rest(self) -> str:
        """See `ManifestRoute`."""
        return "tags/list"


@dataclass(frozen=True, slots=True)
class ReferrersRoute:
    """The list of manifests whose subject is this one."""

    upstream: str
    repository: str
    digest: Digest

    @property
    def rest(self) -> str:
        """See `ManifestRoute`."""
        return f"referrers/{self.digest}"


RepositoryRoute = ManifestRoute | BlobRoute | UploadRoute | TagsRoute | ReferrersRoute
Route = VersionCheck | RepositoryRoute


def parse_route(
    path: str, namespaces: Sequence[str], upstreams: Collection[str], default_upstream: str | None
) -> Route:
    """What a percent-decoded `path` with these `ns` parameters names, among the configured `upstreams`.

    Raises `NotFound` for what isn't served here (an upstream that isn't configured, other endpoints), `NameInvalid`
    and `DigestInvalid` for what can't be a name.
    """
    named, name = _split_base(path)
    if not name:
        return VersionCheck()
    said, kind, argument = _split_name(name)
    upstream, repository = _find(said, _explicit_upstream(namespaces, named), upstreams, default_upstream)
    match kind:
        case "manifests":
            return ManifestRoute(upstream, repository, parse_target(argument))
        case "blobs":
            return BlobRoute(upstream, repository, Digest.parse(argument))
        case "referrers":
            return ReferrersRoute(upstream, repository, Digest.parse(argument))
        case "tags":
            return TagsRoute(upstream, repository)
        case _:
            return UploadRoute(upstream, repository, argument)


def parse_mount_source(
    path: str, source: str, namespaces: Sequence[str], upstreams: Collection[str], default_upstream: str | None
) -> tuple[str, str]:
    """Upstream and repository that the `from` of a mount names, which is written like the repository in `path`.

    Raises what `parse_route` raises.
    """
    named, _ = _split_base(path)
    return _find(source, _explicit_upstream(namespaces, named), upstreams, default_upstream)


def client_base(path: str) -> str:
    """The part of a route's `path` up to and including the repository, as the client calls it."""
    name = _split_base(path)[1]
    return path[: len(path) - len(name)] + _split_name(name)[0]


def _split_name(name: str) -> tuple[str, str, str]:
    """What stands behind `/v2/`: the repository as the client calls it, the kind of thing, and which one."""
    parts = name.split("/")
    match parts:
        case [_, *_, "manifests" | "blobs" | "referrers", _] if parts[-2:] != ["blobs", "uploads"]:
            found = "/".join(parts[:-2]), parts[-2], parts[-1]
        case [_, *_, "blobs", "uploads", _]:
            found = "/".join(parts[:-3]), "uploads", parts[-1]
        case [_, *_, "blobs", "uploads"]:
            found = "/".join(parts[:-2]), "uploads", ""
        case [_, *_, "tags", "list"]:
            found = "/".join(parts[:-2]), "tags", ""
        case _:
            found = "", "", ""
    if not found[0]:
        raise NotFound(f"{name[:300]!r} names nothing of a repository that is served here")
    return found


def _find(name: str, explicit: str | None, upstreams: Collection[str], default_upstream: str | None) -> tuple[str, str]:
    """The upstream and the repository in it that a client means by `name`."""
    if explicit is not None:
        upstream, repository = _configured(explicit, upstreams), name
    else:
        upstream, repository = _upstream_of_name(name, upstreams, default_upstream)
    if upstream == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return upstream, Repository(upstream, repository).path


def _split_base(path: str) -> tuple[str | None, str]:
    """The registry in front of `/v2/`, if there is one, and what follows."""
    first, _, rest = path.removeprefix("/").partition("/")
    if first == _BASE:
        return None, rest
    second, _, name = rest.partition("/")
    if first and second == _BASE:
        return first, name
    raise NotFound(f"{path[:300]!r} isn't a path of the registry API, which begins with /v2/")


def _explicit_upstream(namespaces: Sequence[str], in_front: str | None) -> str | None:
    """The registry that the request names outside of the repository's name."""
    if len(set(namespaces)) > 1:
        raise NameInvalid(f"the request names several registries: {', '.join(namespaces)[:300]}")
    return namespaces[0] if namespaces else in_front


def _upstream_of_name(name: str, upstreams: Collection[str], default_upstream: str | None) -> tuple[str, str]:
    """The upstream and the repository in it, which isn't checked yet, of a name that may begin with a registry."""
    first, _, rest = name.partition("/")
    if rest and ("." in first or ":" in first or first == "localhost"):
        try:
            return _configured(first, upstreams), rest
        except NotFound:
            if default_upstream is None or ":" in first:
                raise
    if default_upstream is None:
        raise NotFound("the request names no registry (by ?ns= or in its path), and no default upstream is configured")
    return _configured(default_upstream, upstreams), name


def _configured(name: str, upstreams: Collection[str]) -> str:
    """The configured upstream that `name` means."""
    if name in upstreams:
        return name
    try:
        canonical = normalize_registry(name)
    except NameInvalid:
        canonical = name
    if canonical not in upstreams:
        raise NotFound(f"the registry {name[:300]!r} isn't a configured upstream")
    return canonical
