"""Error kinds across the wire: a gRPC status for foreign eyes, and our own kind and message in its details."""

from __future__ import annotations

import grpc

from api import errors

_STATUS: dict[type[errors.ShoalError], grpc.StatusCode] = {
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Conflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.NotModified: grpc.StatusCode.ALREADY_EXISTS,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthorized: grpc.StatusCode.UNAUTHENTICATED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Upstream: grpc.StatusCode.UNKNOWN,
    errors.NotInSwarm: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OutOfSequence: grpc.StatusCode.ABORTED,
    errors.NotSupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}
_KINDS = {kind.__name__: kind for kind in errors.KINDS}


def to_status(error: errors.ShoalError) -> tuple[grpc.StatusCode, str]:
    """The status and details a server answers with."""
    kind = next(kind for kind in errors.KINDS if isinstance(error, kind))
    return _STATUS[kind], f"{kind.__name__}: {error.message}"


def from_rpc(error: grpc.aio.AioRpcError) -> errors.ShoalError:
    """The error kind a client raises for a failed call. A transport failure is `Unavailable`."""
    name, _, message = (error.details() or "").partition(": ")
    if name in _KINDS:
        return _KINDS[name](message)
    if error.code() == grpc.StatusCode.CANCELLED:
        return errors.Cancelled("the call was cancelled")
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.Unavailable("the node did not answer in time")
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return errors.Unavailable(f"the node can't be reached: {error.details()}")
    return errors.Internal(f"{error.code()}: {error.details()}")
