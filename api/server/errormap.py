"""The only place that knows which HTTP status an error kind has. A function of the API version: 1.24 says 406 where
later documents say 503, and its sections list 500 alone for what can't be done now (v1.24 sections 3.7 to 3.10)."""

from __future__ import annotations

from api import errors
from api.wire.versions import Version

_STATUS: dict[type[errors.ShoalError], int] = {
    errors.NotFound: 404,
    errors.InvalidArgument: 400,
    errors.Conflict: 409,
    errors.NotModified: 304,
    errors.Forbidden: 403,
    errors.Unauthorized: 401,
    errors.Unavailable: 503,
    errors.Upstream: 500,
    errors.NotInSwarm: 503,
    errors.OutOfSequence: 500,
    errors.NotSupported: 501,
    errors.Cancelled: 499,
    errors.Internal: 500,
}


def status_of(error: BaseException, version: Version) -> int:
    """The status for an error; 500 for anything that is not one of our kinds."""
    if isinstance(error, errors.NotInSwarm) and version < (1, 25):
        return 406
    if isinstance(error, errors.Unavailable) and version < (1, 25):
        return 500
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
