"""Reading the store. A view reads the live tables; between two awaits nothing changes, so one synchronous stretch of
reads is consistent."""

from __future__ import annotations

from typing import TypeVar

from api.types.objects import Cluster, Node, Service, SwarmNetwork, Task, TaskState
from manager.store.memory import Memory
from manager.store.tables import TABLE_OF, slot_key

T = TypeVar("T", Cluster, Node, Service, Task, SwarmNetwork)


class View:
    """Typed reads. Lists are in the order of creation."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    @property
    def index(self) -> int:
        """The Raft index that the reads reflect."""
        return self._memory.index

    def get(self, kind: type[T], item_id: str) -> T | None:
        return self._memory.rows[TABLE_OF[kind].name].by_id.get(item_id)

    def all(self, kind: type[T]) -> list[T]:
        return list(self._memory.rows[TABLE_OF[kind].name].by_id.values())

    def cluster(self) -> Cluster | None:
        """The one cluster object; None before the first manager has written it."""
        return next(iter(self.all(Cluster)), None)

    def service_named(self, name: str) -> Service | None:
        return next(self._memory.rows["services"].find("name", name.lower()), None)

    def network_named(self, name: str) -> SwarmNetwork | None:
        return next(self._memory.rows["networks"].find("name", name), None)

    def tasks_of_service(self, service_id: str) -> list[Task]:
        return list(self._memory.rows["tasks"].find("service", service_id))

    def tasks_on_node(self, node_id: str) -> list[Task]:
        return list(self._memory.rows["tasks"].find("node", node_id))

    def tasks_of_slot(self, service_id: str, slot: int, node_id: str = "") -> list[Task]:
        return list(self._memory.rows["tasks"].find("slot", slot_key(service_id, slot, node_id)))

    def tasks_in_state(self, state: TaskState) -> list[Task]:
        return list(self._memory.rows["tasks"].find("state", state.label))
