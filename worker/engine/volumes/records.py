"""What is kept of a volume."""

from __future__ import annotations

from api.types.base import Record
from worker.engine.volumes.options import LOCAL

TABLE = "volumes"


class VolumeRecord(Record, kw_only=True, frozen=True):
    name: str
    driver: str = LOCAL
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    created_ns: int = 0
    holders: tuple[str, ...] = ()
    """Containers that refer to it, running or not."""
    anonymous: bool = False
    mounted: tuple[str, ...] = ()
    """Containers that use the mount its options or its plugin made: kept, so that a new daemon does not take it from
    them."""
    scope: str = "local"
    mountpoint: str = ""
    """Where the plugin says it is; empty for the local driver, whose volumes have a fixed place."""

    @property
    def local(self) -> bool:
        return self.driver == LOCAL
