"""A whole service: which slots there shall be, and a plan for each. Pure.

Replicated services keep `replicas` numbered slots; global ones keep one slot for each fit node.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from api.types.objects import Node, NodeState, Service, Task, TaskState
from manager import constraints
from manager.orchestrator.slots import Context, Slot, SlotPlan, end, plan_slot, slots_of
from manager.orchestrator.updater import plan_update


@dataclass
class ServicePlan:
    """Groups of tasks, each to be written in one transaction; the service when its update status moves."""

    groups: list[list[Task]] = field(default_factory=list)
    service: Service | None = None
    wake_at: int | None = None

    def add(self, plan: SlotPlan) -> None:
        if plan.puts:
            self.groups.append(plan.puts)
        self.wake(plan.wake_at)

    def wake(self, when: int | None) -> None:
        if when is not None:
            self.wake_at = when if self.wake_at is None else min(self.wake_at, when)


def plan_service(context: Context, tasks: Sequence[Task]) -> ServicePlan:
    """What to change about a service's tasks now."""
    orphans = [_orphan(task, context.now) for task in tasks if _is_orphan(task, context)]
    gone = {task.id for task in orphans}
    slots = slots_of([task for task in tasks if task.id not in gone])
    plan = ServicePlan([[task] for task in orphans])
    if context.service.spec.mode.global_ is not None:
        _plan_global(context, slots, plan)
    else:
        _plan_replicated(context, slots, plan)
    return plan


def plan_removal(tasks: Sequence[Task]) -> list[list[Task]]:
    """The service is gone: its tasks are to be stopped and forgotten."""
    return [[end(task, TaskState.REMOVE)] for task in tasks if task.desired_state < TaskState.REMOVE]


def replicas_of(service: Service) -> int:
    """How many slots the service shall have; 1 when the spec leaves it out."""
    replicated = service.spec.mode.replicated
    return 1 if replicated is None or replicated.replicas is None else replicated.replicas


def _plan_replicated(context: Context, slots: dict[str, Slot], plan: ServicePlan) -> None:
    surplus = len(slots) - replicas_of(context.service)
    if surplus > 0:
        for slot in _expendable(list(slots.values()))[:surplus]:
            plan.groups.append([end(task, TaskState.REMOVE) for task in slot.tasks])
            del slots[str(slot.number)]
    ordered = dict(sorted(slots.items(), key=lambda item: item[1].number))
    update = plan_update(context, ordered)
    for key, slot in ordered.items():
        plan.add(plan_slot(context, slot, may_update=key in update.may_update))
    number = 0
    for _ in range(-surplus):
        number += 1
        while str(number) in slots:
            number += 1
        plan.add(plan_slot(context, Slot(number, "", []), may_update=False))
    _finish(context, plan, update.status, update.wake_at)


def _plan_global(context: Context, slots: dict[str, Slot], plan: ServicePlan) -> None:
    everywhere = dict(slots)
    for node_id in context.nodes:
        everywhere.setdefault(node_id, Slot(0, node_id, []))
    update = plan_update(context, slots)
    for key, slot in everywhere.items():
        create = _takes_global(context.service, context.nodes.get(slot.node_id))
        plan.add(plan_slot(context, slot, may_update=create and key in update.may_update, may_create=create))
    _finish(context, plan, update.status, update.wake_at)


def _finish(context: Context, plan: ServicePlan, status: object, wake_at: int | None) -> None:
    plan.wake(wake_at)
    if status != context.service.update_status:
        plan.service = msgspec.structs.replace(context.service, update_status=status)


def _takes_global(service: Service, node: Node | None) -> bool:
    if node is None or node.status.state is not NodeState.READY or node.spec.availability != "active":
        return False
    placement = service.spec.task_template.placement
    return constraints.satisfied(constraints.parse(placement.constraints if placement is not None else []), node)


def _expendable(slots: list[Slot]) -> list[Slot]:
    """In the order of removal: what does not run first, then from the nodes that hold most, then the highest number."""
    order = sorted((slot for slot in slots if not _runs(slot)), key=lambda slot: -slot.number)
    by_node: dict[str, list[Slot]] = {}
    for slot in sorted(slots, key=lambda slot: slot.number):
        if _runs(slot):
            by_node.setdefault(_node(slot), []).append(slot)
    # One entry a node: how much it holds and its highest number; what it holds falls as its slots are taken.
    heap = [(-len(held), -held[-1].number, node_id) for node_id, held in by_node.items()]
    heapq.heapify(heap)
    while heap:
        node_id = heap[0][2]
        held = by_node[node_id]
        order.append(held.pop())
        if held:
            heapq.heapreplace(heap, (-len(held), -held[-1].number, node_id))
        else:
            heapq.heappop(heap)
    return order


def _runs(slot: Slot) -> bool:
    return slot.wanted is not None and slot.wanted.status.state is TaskState.RUNNING


def _node(slot: Slot) -> str:
    return slot.wanted.node_id if slot.wanted is not None else ""


def _is_orphan(task: Task, context: Context) -> bool:
    on_node = TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
    return on_node and task.node_id not in context.nodes


def _orphan(task: Task, now: int) -> Task:
    """A task whose node has left the swarm: nobody will ever report on it again."""
    status = msgspec.structs.replace(
        task.status, state=TaskState.ORPHANED, timestamp=now, message="node left the swarm"
    )
    return msgspec.structs.replace(task, status=status, desired_state=max(task.desired_state, TaskState.SHUTDOWN))
