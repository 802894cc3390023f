"""One slot of a service: what to do with its tasks now. Pure.

Invariant: at most one task of a slot is wanted (desired state up to RUNNING), and it may run only when those before it
have stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from api.types.objects import Node, NodeState, Service, Task, TaskState, TaskStatus
from manager import constraints
from manager.orchestrator.restart import release_time, should_restart


@dataclass(frozen=True)
class Context:
    """What the planners of one service read. `now` in ns."""

    service: Service
    nodes: Mapping[str, Node]
    now: int
    new_id: Callable[[], str]


@dataclass
class SlotPlan:
    """Tasks to write together, and when to look again (ns)."""

    puts: list[Task] = field(default_factory=list)
    wake_at: int | None = None


@dataclass(frozen=True)
class Slot:
    """A slot (or a node, for a global service) and its tasks that are not being removed, oldest first."""

    number: int
    node_id: str
    tasks: Sequence[Task]

    @property
    def wanted(self) -> Task | None:
        """The task that stands for the slot now."""
        live = [task for task in self.tasks if task.desired_state <= TaskState.RUNNING]
        return live[-1] if live else None

    @property
    def newest(self) -> Task | None:
        return self.tasks[-1] if self.tasks else None


def slots_of(tasks: Sequence[Task]) -> dict[str, Slot]:
    """Group a service's tasks by slot: key is the slot's number, or its node's id. Those under removal are in none."""
    groups: dict[str, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: (task.meta.created_at, task.id)):
        if task.desired_state < TaskState.REMOVE and task.status.state is not TaskState.ORPHANED:
            groups.setdefault(str(task.slot or task.node_id), []).append(task)
    return {key: Slot(group[0].slot, "" if group[0].slot else group[0].node_id, group) for key, group in groups.items()}


def is_dirty(task: Task, service: Service) -> bool:
    """Whether the task was made from another spec than the service has now."""
    return task.spec_version != service.spec_version and task.spec != service.spec.task_template


def fits(task: Task, nodes: Mapping[str, Node]) -> bool:
    """Whether a task may stay where it is: the node exists, is up, not drained, and meets the constraints."""
    if not task.node_id:
        return True
    node = nodes.get(task.node_id)
    if node is None or node.status.state is NodeState.DOWN or node.spec.availability == "drain":
        return False
    placement = task.spec.placement
    return constraints.satisfied(constraints.parse(placement.constraints if placement is not None else []), node)


def end(task: Task, desired: TaskState = TaskState.SHUTDOWN) -> Task:
    """The task, no longer wanted."""
    return msgspec.structs.replace(task, desired_state=desired)


def make_task(context: Context, slot: Slot) -> Task:
    """A task of the service's present spec. It may run at once when nothing of the slot does and no delay is due."""
    service = context.service
    task = Task(
        id=context.new_id(),
        service_id=service.id,
        service_name=service.spec.name,
        slot=slot.number,
        node_id=slot.node_id,
        spec=service.spec.task_template,
        spec_version=service.spec_version,
        labels=service.spec.labels,
        status=TaskStatus(timestamp=context.now, state=TaskState.NEW, message="created"),
        registry_auth=service.registry_auth,
    )
    held = release_time(task, slot.tasks, context.nodes) != 0
    return msgspec.structs.replace(task, desired_state=TaskState.READY if held else TaskState.RUNNING)


def plan_slot(context: Context, slot: Slot, *, may_update: bool, may_create: bool = True) -> SlotPlan:
    """Bring one slot a step nearer to one running task of the present spec.

    Args:
        may_update: the updater has room to replace a task of an older spec here.
        may_create: false where the slot shall stay empty once its task is gone (a node unfit for a global service).
    """
    plan = SlotPlan()
    task, newest = slot.wanted, slot.newest
    replace = False
    if task is None:
        replace = newest is None or not settled(slot) or (may_update and is_dirty(newest, context.service))
    elif task.status.state.terminal:
        if not (may_update and is_dirty(task, context.service)) and not _due(context, slot, task, plan):
            return plan
        replace = should_restart(task, slot.tasks)
        plan.puts.append(end(task))
    elif not fits(task, context.nodes) or (may_update and is_dirty(task, context.service)):
        replace = True
        plan.puts.append(end(task))
    elif task.desired_state is TaskState.READY:
        _release(context, slot, task, plan)
    plan.puts.extend(
        end(other) for other in slot.tasks if other.desired_state <= TaskState.RUNNING and other is not task
    )
    if replace and may_create:
        plan.puts.append(make_task(context, slot))
    return plan


def settled(slot: Slot) -> bool:
    """Whether the slot's last task ended by itself and the restart policy leaves it at that."""
    newest = slot.newest
    if newest is None or newest.status.state not in (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED):
        return False
    return not should_restart(newest, slot.tasks)


def _release(context: Context, slot: Slot, task: Task, plan: SlotPlan) -> None:
    if _due(context, slot, task, plan):
        plan.puts.append(end(task, TaskState.RUNNING))


def _due(context: Context, slot: Slot, task: Task, plan: SlotPlan) -> bool:
    """Whether the time has come for a task that is held at READY; if not, the plan says when to look again.

    One that fails while it is held is followed only then, or a task that can't even be prepared would have no delay.
    """
    if task.desired_state is not TaskState.READY:
        return True
    when = release_time(task, [other for other in slot.tasks if other.id != task.id], context.nodes)
    if when is None or when <= context.now:
        return when is not None
    plan.wake_at = when
    return False
