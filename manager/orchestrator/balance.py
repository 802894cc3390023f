"""Evening out: which task of a service should move to a node that has come, or come back. Pure.

Off unless the label `shoal.rebalance` on the service, or else on the swarm, gives a budget of moves a minute.

Invariants, so that moving is never worse than staying:
- a slot moves only when all slots of its service run and no update is under way or paused; so with one move at a time,
  a service is never more than one task short because of moves;
- every move narrows the spread of the service's tasks or, leaving that as it is, of all tasks; so moves come to an end.

What was moved and when is read from the tasks themselves (`moved_from`), so a new leader keeps to the same budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from api.types.objects import Cluster, Node, NodeState, Service, Task, TaskState
from api.types.swarm import Resources
from base.clock import NS
from manager import constraints
from manager.labels import moves_a_minute
from manager.orchestrator.plan import replicas_of
from manager.orchestrator.slots import is_dirty, slots_of
from manager.orchestrator.updater import COMPLETED
from manager.room import occupies, reservations

MINUTE_NS: Final = 60 * NS
FAILED_LATELY_NS: Final = 5 * MINUTE_NS
"""A node on which a task of the service failed so recently is no place to move to."""


@dataclass(frozen=True)
class Move:
    """A task that would leave `source`. `target` is where the scheduler would put its successor as things stand."""

    task: Task
    source: str
    target: str


@dataclass(frozen=True)
class Cell:
    """What is on one node: tasks of the service, all tasks, and the resources that nobody has reserved."""

    node: Node
    own: int
    total: int
    nano_cpus: int
    memory_bytes: int

    @property
    def rank(self) -> tuple[int, int]:
        """As the scheduler ranks nodes: fewest tasks of the service, then fewest tasks."""
        return self.own, self.total


def budget(service: Service, cluster: Cluster | None) -> int:
    """Moves a minute that the service may make; 0 is off. The service's own label goes before the swarm's."""
    for labels in (service.spec.labels, cluster.spec.labels if cluster is not None else {}):
        if (said := moves_a_minute(labels)) is not None:
            return said
    return 0


def moving(tasks: Iterable[Task]) -> bool:
    """Whether a move is under way: its task has neither come to run nor ended."""
    return any(
        task.moved_from and task.desired_state <= TaskState.RUNNING and task.status.state < TaskState.RUNNING
        for task in tasks
    )


def allowed_at(own: Iterable[Task], moves: int, now: int) -> int:
    """When the budget has room for a move, ns: `now` or later. `own` are the service's tasks, `moves` its budget."""
    lately = sorted(t.meta.created_at for t in own if t.moved_from and t.meta.created_at > now - MINUTE_NS)
    return now if len(lately) < moves else lately[-moves] + MINUTE_NS


def is_steady(service: Service, own: Sequence[Task]) -> bool:
    """Whether the service's slots all run as they should, so that one of them can be spared for a moment."""
    update = service.update_status
    if service.spec.mode.global_ is not None or (update is not None and update.state != COMPLETED):
        return False
    wanted = [slot.wanted for slot in slots_of(own).values()]
    standing = [task for task in wanted if task is not None and _runs(task) and not is_dirty(task, service)]
    return len(standing) == len(wanted) == replicas_of(service)


def next_move(service: Service, tasks: Sequence[Task], nodes: Mapping[str, Node], now: int) -> Move | None:
    """The move that evens out most, or None when none does.

    Args:
        tasks: all tasks of the swarm.
    """
    own = [task for task in tasks if task.service_id == service.id]
    if not is_steady(service, own):
        return None
    cells = _cells(service, tasks, nodes)
    avoided = {task.node_id for task in own if _failed_lately(task, now)}
    parsed = constraints.parse(
        service.spec.task_template.placement.constraints if service.spec.task_template.placement else []
    )
    places = [cell for cell in cells.values() if cell.node.id not in avoided and _open(cell, parsed, service)]
    movable = sorted((task for task in own if _runs(task) and task.node_id in cells), key=lambda task: -task.slot)
    best: Move | None = None
    gain = (0, 0)
    for source in sorted({task.node_id for task in movable}):
        for place in places:
            better = _gain(cells[source], place)
            if place.node.id != source and better > gain:
                task = next(task for task in movable if task.node_id == source)
                best, gain = Move(task, source, place.node.id), better
    return best


def all_moves(
    service: Service, tasks: Sequence[Task], nodes: Mapping[str, Node], now: int
) -> tuple[list[Move], Sequence[Task]]:
    """Every move it would take, one after the other, if nothing else happened; and the swarm's tasks after them."""
    found: list[Move] = []
    while (move := next_move(service, tasks, nodes, now)) is not None:
        found.append(move)
        moved = msgspec.structs.replace(move.task, node_id=move.target)
        tasks = [moved if task.id == moved.id else task for task in tasks]
    return found, tasks


def _runs(task: Task) -> bool:
    return task.status.state is TaskState.RUNNING and task.desired_state is TaskState.RUNNING


def _failed_lately(task: Task, now: int) -> bool:
    failed = task.status.state in (TaskState.FAILED, TaskState.REJECTED)
    return failed and now - task.status.timestamp < FAILED_LATELY_NS


def _cells(service: Service, tasks: Iterable[Task], nodes: Mapping[str, Node]) -> dict[str, Cell]:
    own, total = Counter[str](), Counter[str]()
    cpus, memory = Counter[str](), Counter[str]()
    for task in tasks:
        if not occupies(task):
            continue
        total[task.node_id] += 1
        own[task.node_id] += task.service_id == service.id
        held = reservations(task)
        cpus[task.node_id] += held.nano_cpus
        memory[task.node_id] += held.memory_bytes
    found = {}
    for node_id, node in nodes.items():
        has = node.description
        free_cpus = (has.nano_cpus if has is not None else 0) - cpus[node_id]
        free_memory = (has.memory_bytes if has is not None else 0) - memory[node_id]
        found[node_id] = Cell(node, own[node_id], total[node_id], free_cpus, free_memory)
    return found


def _open(cell: Cell, parsed: Sequence[constraints.Constraint], service: Service) -> bool:
    """Whether the scheduler would put a task of the service there."""
    node = cell.node
    if node.status.state is not NodeState.READY or node.spec.availability != "active":
        return False
    resources = service.spec.task_template.resources
    wanted = (resources.reservations if resources is not None else None) or Resources()
    room = wanted.nano_cpus <= max(cell.nano_cpus, 0) and wanted.memory_bytes <= max(cell.memory_bytes, 0)
    return room and constraints.satisfied(parsed, node)


def _gain(source: Cell, place: Cell) -> tuple[int, int]:
    """By how much a move narrows the gap between two nodes: in the service's tasks, then in all. (0, 0): not at all.

    A gap of one would only change sides. Where the service's own gap is one, its spread stays and the other counts.
    """
    own, total = source.own - place.own, source.total - place.total
    if own >= 2:
        return own, total
    return (1, total) if own == 1 and total >= 2 else (0, 0)
