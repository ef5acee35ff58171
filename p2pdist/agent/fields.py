"""The header fields by which daemons know an answer of a registry and what it holds. Pure."""

from p2pdist.core.digest import Digest

ALWAYS = {"Docker-Distribution-API-Version": "registry/2.0"}
"""What every answer carries."""


def etag(digest: Digest) -> str:
    """The validator of content with this digest; it is a strong one, since nothing else has the digest."""
    return f'"{digest}"'


def identity(digest: Digest) -> dict[str, str]:
    """The fields of an answer that holds the content with this digest, or a part of it."""
    return {**ALWAYS, "Docker-Content-Digest": str(digest), "ETag": etag(digest)}
