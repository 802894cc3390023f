"""Filters: whether a node can run a task at all, and in what words it cannot. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from api.types.objects import Node, NodeState, Task
from manager import constraints
from manager.room import reservations


@dataclass
class NodeInfo:
    """A node and what is left of it. Changes while one batch is placed."""

    node: Node
    nano_cpus: int
    memory_bytes: int
    tasks: int
    service_tasks: dict[str, int]

    def add(self, task: Task) -> None:
        """Count a task that runs here or is to."""
        reserved = reservations(task)
        self.nano_cpus -= reserved.nano_cpus
        self.memory_bytes -= reserved.memory_bytes
        self.tasks += 1
        self.service_tasks[task.service_id] = self.service_tasks.get(task.service_id, 0) + 1


@dataclass(frozen=True)
class Filter:
    """One reason against a node. `check` is made once for a group of equal tasks."""

    make: Callable[[Task], Callable[[NodeInfo], bool]]
    explain: Callable[[int], str]
    """The words for so many nodes that failed here."""


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"


def _ready(task: Task) -> Callable[[NodeInfo], bool]:
    def check(info: NodeInfo) -> bool:
        return info.node.status.state is NodeState.READY and info.node.spec.availability == "active"

    return check


def _resources(task: Task) -> Callable[[NodeInfo], bool]:
    wanted = reservations(task)

    def check(info: NodeInfo) -> bool:
        return wanted.nano_cpus <= max(info.nano_cpus, 0) and wanted.memory_bytes <= max(info.memory_bytes, 0)

    return check


def _constraints(task: Task) -> Callable[[NodeInfo], bool]:
    placement = task.spec.placement
    parsed = constraints.parse(placement.constraints if placement is not None else [])
    return lambda info: constraints.satisfied(parsed, info.node)


PIPELINE: Final = (
    Filter(_ready, lambda count: f"{_nodes(count)} not available for new tasks"),
    Filter(_resources, lambda count: f"insufficient resources on {_nodes(count)}"),
    Filter(_constraints, lambda count: f"scheduling constraints not satisfied on {_nodes(count)}"),
)
