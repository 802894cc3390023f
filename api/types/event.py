"""The messages of GET /events (v1.24 section 3.3, "Monitor Docker's events")."""

from __future__ import annotations

import msgspec

from api.types.base import Api


class EventActor(Api, kw_only=True):
    id: str
    attributes: dict[str, str] = msgspec.field(default_factory=dict)


class EventMessage(Api, kw_only=True):
    """`status`, `id` and `from` are the old spelling, given for containers and images only."""

    status: str | msgspec.UnsetType = msgspec.field(name="status", default=msgspec.UNSET)
    id: str | msgspec.UnsetType = msgspec.field(name="id", default=msgspec.UNSET)
    origin: str | msgspec.UnsetType = msgspec.field(name="from", default=msgspec.UNSET)
    type: str
    action: str
    actor: EventActor
    time: int = msgspec.field(name="time")
    """Seconds since the epoch."""
    time_ns: int = msgspec.field(name="timeNano")
