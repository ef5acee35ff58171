"""An upstream as the configuration describes it."""

from dataclasses import dataclass
from pathlib import Path

from p2pdist.core.errors import InvalidInput
from p2pdist.http.url import Url
from p2pdist.oci.credentials import CredentialSource
from p2pdist.oci.reference import normalize_registry


@dataclass(frozen=True, slots=True)
class Upstream:
    """A registry: the name that requests call it by, and where its bytes come from.

    `origin` is the base URL in front of `/v2/`; `ca_file` is trusted besides the system's authorities; `credentials`
    are looked up for the origin's host, then for the upstream's name. `rate_bytes_per_second` is the most that blobs
    are fetched with, all of them together; 0: as fast as they come.
    """

    name: str
    origin: str
    ca_file: Path | None = None
    credentials: CredentialSource | None = None
    rate_bytes_per_second: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", normalize_registry(self.name))
        if "?" in self.origin or "#" in self.origin:
            raise InvalidInput(f"the origin of upstream {self.name} is a base URL: no '?' and no '#'")
        Url.parse(self.origin)

    @property
    def base(self) -> Url:
        """The origin, taken apart."""
        return Url.parse(self.origin)

    def url(self, path: str) -> Url:
        """The URL of an API path, which starts with `/v2/`."""
        return Url.parse(self.origin.rstrip("/") + path)
