"""Who a certificate names: one URI in its subjectAltName, `p2pdist:agent:<id>` or `p2pdist:tracker:<id>`.

The id is the first 128 bits of the SHA-256 of the raw Ed25519 public key, in hex. It is derived, not drawn, so that

- nobody can be given the id of another agent without holding its key: neither a join token nor a bug in the tracker
  can make one host replace another;
- enrolling again after a lost answer, or after the certificate ran out, gives the same id, with no list of ids to keep;
- the key id of a piece signed with that key (`vouch.py`: the first 64 bits of the same hash) names its signer.

A new key is a new agent; state about peers is soft, so nothing is lost by that.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.pki.errors import UntrustedPeer

_URI = re.compile(r"p2pdist:(agent|tracker):([0-9a-f]{32})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ID = re.compile(r"[0-9a-f]{32}")


class PeerKind(StrEnum):
    """What a peer may be."""

    AGENT = "agent"
    TRACKER = "tracker"


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """The subject of a certificate of the fleet: its kind, its id (32 hex digits) and a name for people."""

    kind: PeerKind
    id: str
    name: str

    @property
    def uri(self) -> str:
        """The form that stands in the certificate."""
        return f"p2pdist:{self.kind}:{self.id}"

    @classmethod
    def from_uris(cls, uris: list[str], name: str) -> "PeerIdentity":
        """The peer that a certificate's URIs name; raises `UntrustedPeer` unless there is exactly one, of our form."""
        match = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
        if match is None:
            raise UntrustedPeer(
                f"the peer's certificate names {[uri[:80] for uri in uris[:4]]}; a member of the fleet has exactly"
                " one name, p2pdist:agent:<id> or p2pdist:tracker:<id>"
            )
        return cls(PeerKind(match[1]), match[2], name)

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.id})"


def id_of(public_key: Ed25519PublicKey) -> str:
    """The id of whoever holds the private key that belongs to `public_key`."""
    return id_of_bytes(public_key.public_bytes_raw())


def id_of_bytes(public_key: bytes) -> str:
    """`id_of` a raw public key."""
    return Digest.of(public_key).hex[:32]


def is_id(text: str) -> bool:
    """Whether `text` has the form of an agent's or tracker's id."""
    return _ID.fullmatch(text) is not None


def check_name(name: str) -> str:
    """`name`, if it can name an agent or tracker; raises `InvalidInput` otherwise (X.520 allows 64 characters)."""
    if _NAME.fullmatch(name) is None:
        raise InvalidInput(
            f"{name[:80]!r} can't be the name of an agent or tracker: use 1 to 64 letters, digits, dots, dashes and"
            " underscores, the first one a letter or digit"
        )
    return name
