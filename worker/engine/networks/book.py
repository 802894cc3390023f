"""Which container has which place on which networks: the sandboxes of this host, in memory.

Invariant: the names that DNS answers and the sandboxes change together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Address

from api.errors import NotFound
from worker.engine.networks.catalog import Catalog
from worker.engine.networks.names import NameTable
from worker.engine.networks.records import SandboxRecord


class SandboxBook:
    """One sandbox a container at most."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._by_container: dict[str, SandboxRecord] = {}
        self.names = NameTable()

    def all(self) -> Collection[SandboxRecord]:
        return self._by_container.values()

    def by_container(self) -> Mapping[str, SandboxRecord]:
        """Container id to sandbox, as it is at any time."""
        return self._by_container

    def get(self, container_id: str) -> SandboxRecord | None:
        return self._by_container.get(container_id)

    def running(self, container_id: str) -> SandboxRecord:
        """Raises NotFound if the container has none."""
        record = self._by_container.get(container_id)
        if record is None:
            raise NotFound(f"no network sandbox of container {container_id}")
        return record

    def find(self, ref: str) -> SandboxRecord | None:
        """Of a container by id, name or id prefix (the caller knows it to be unique)."""
        exact = self._by_container.get(ref)
        found = (one for one in self._by_container.values() if one.container_name == ref.lstrip("/"))
        prefix = (one for one in self._by_container.values() if ref and one.container_id.startswith(ref))
        return exact or next(found, None) or next(prefix, None)

    def remember(self, record: SandboxRecord) -> None:
        """In place of the container's earlier one."""
        old = self._by_container.get(record.container_id)
        for made in old.endpoints if old else ():
            self.names.remove(made)
        self._by_container[record.container_id] = record
        for made in record.endpoints:
            self.names.add(made)

    def forget(self, record: SandboxRecord) -> None:
        """Idempotent; a later one of the same container stays."""
        if self._by_container.get(record.container_id) is record:
            del self._by_container[record.container_id]
        for made in record.endpoints:
            self.names.remove(made)

    def take_up(self, sandbox: SandboxRecord) -> None:
        """One of an earlier daemon, with the addresses it holds."""
        self.remember(sandbox)
        for made in sandbox.endpoints:
            if made.address and made.network_id in self._catalog.subnets:
                self._catalog.subnets[made.network_id].used.add(IPv4Address(made.address))
