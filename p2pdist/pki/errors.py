"""What can be wrong with certificates, tokens and vouches.

Errors about the other end are `Denied` (it may not) or `ProtocolError` (it misbehaved); errors about our own files say
which file and what to do with it.
"""

from p2pdist.core.errors import Denied, P2PDistError, ProtocolError


class CredentialError(P2PDistError):
    """A key or certificate of our own, on disk, can't be used."""


class AuthorityExists(CredentialError):
    """There is a CA already; it is never overwritten."""


class AuthorityMissing(CredentialError):
    """There is no CA where one was expected."""


class NotEnrolled(CredentialError):
    """The host has no certificate yet: it must enrol with a join token."""


class IdentityExpired(CredentialError):
    """The host's certificate has run out: it must enrol again with a new join token."""


class UntrustedPeer(ProtocolError):
    """The other end of a TLS connection isn't who it must be."""


class RequestRefused(ProtocolError):
    """A certificate signing request that can't be granted."""


class JoinRefused(Denied):
    """A join token that gives no entry."""


class TokenUnknown(JoinRefused):
    """A token that this tracker never made, or that was revoked and forgotten."""


class TokenExpired(JoinRefused):
    """A token whose time is over."""


class TokenUsedUp(JoinRefused):
    """A token that has let in as many agents as it may."""


class TokenRevoked(JoinRefused):
    """A token that an operator took back."""


class AgentRevoked(Denied):
    """An agent that an operator shut out."""


class BadVouch(ProtocolError):
    """Bytes that aren't a vouch."""


class BadSignature(ProtocolError):
    """A vouch that doesn't hold for the piece it came with."""


class UnknownKey(ProtocolError):
    """A vouch made with a key that nobody introduced."""
