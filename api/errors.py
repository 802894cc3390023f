"""Errors are kinds. Every error that crosses a package is exactly one of these; `api.server.errormap` alone knows
HTTP statuses, `api.rpc` alone knows gRPC codes. The message is what the user reads: it names the field or object.
"""

from __future__ import annotations


class ShoalError(Exception):
    """Base of all error kinds."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotFound(ShoalError):
    """The named object does not exist."""


class InvalidArgument(ShoalError):
    """The request is malformed or a field has a value that can't be."""


class Conflict(ShoalError):
    """The request contradicts the object's present state (name in use, still running, already exists)."""


class NotModified(ShoalError):
    """The object is already in the wanted state."""


class Forbidden(ShoalError):
    """Understood, and not allowed (predefined network, swarm scope)."""


class Unauthorized(ShoalError):
    """Credentials are missing or wrong."""


class Unavailable(ShoalError):
    """It would work, but not now: no leader, no quorum."""


class Upstream(ShoalError):
    """A server that is not ours (a registry, an address the user named) failed, refused, or can't be reached."""


class NotInSwarm(ShoalError):
    """A swarm request reached a node that is no manager, or a join one that is already in a swarm (406 at v1.24)."""


class OutOfSequence(ShoalError):
    """An update named a version that is not the current one."""


class NotSupported(ShoalError):
    """A documented feature that this build does not offer; the message says why (docs/limits.md)."""


class Cancelled(ShoalError):
    """The client went away before the work was done."""


class Internal(ShoalError):
    """Something of ours is broken; the log has the stack."""


KINDS: tuple[type[ShoalError], ...] = (
    NotFound,
    InvalidArgument,
    Conflict,
    NotModified,
    Forbidden,
    Unauthorized,
    Unavailable,
    Upstream,
    NotInSwarm,
    OutOfSequence,
    NotSupported,
    Cancelled,
    Internal,
)
