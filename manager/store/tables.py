"""Which kinds of object the store holds, and by what they are found. One table a kind; objects are frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec

from api.types.objects import Cluster, Node, Service, SwarmNetwork, Task

StoreObject: TypeAlias = Cluster | Node | Service | Task | SwarmNetwork


@dataclass(frozen=True)
class Table:
    """A kind of object. `indexes` map an object to its key, or None when the index leaves it out."""

    name: str
    kind: type[Any]
    indexes: dict[str, Callable[[Any], str | None]] = field(default_factory=dict)
    unique: Callable[[Any], str] | None = None
    """The name under which two objects of the table can't both exist."""


def slot_key(service_id: str, slot: int, node_id: str) -> str:
    """A replicated service's slot by its number, a global service's by its node."""
    return f"{service_id}.{slot or node_id}"


CLUSTERS: Final = Table("clusters", Cluster)
NODES: Final = Table("nodes", Node, {"role": lambda node: node.spec.role})
SERVICES: Final = Table(
    "services", Service, {"name": lambda service: service.spec.name.lower()}, lambda service: service.spec.name.lower()
)
TASKS: Final = Table(
    "tasks",
    Task,
    {
        "service": lambda task: task.service_id or None,
        "node": lambda task: task.node_id or None,
        "slot": lambda task: slot_key(task.service_id, task.slot, task.node_id) if task.service_id else None,
        "desired": lambda task: task.desired_state.label,
        "state": lambda task: task.status.state.label,
    },
)
NETWORKS: Final = Table(
    "networks", SwarmNetwork, {"name": lambda network: network.spec.name}, lambda network: network.spec.name
)

TABLES: Final = {table.name: table for table in (CLUSTERS, NODES, SERVICES, TASKS, NETWORKS)}
TABLE_OF: Final[dict[type[Any], Table]] = {table.kind: table for table in TABLES.values()}

encode: Final = msgspec.msgpack.Encoder().encode
DECODERS: Final = {table.name: msgspec.msgpack.Decoder(table.kind) for table in TABLES.values()}
