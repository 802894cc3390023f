"""Which component may move a task's observed state from where to where. The store refuses anything else.

Task states only go forward, and each step has one owner; so two loops can never fight over a task.
"""

from __future__ import annotations

import enum
from typing import Final

from api.types.objects import Task, TaskState


class Component(enum.StrEnum):
    """Who writes to the store."""

    CONTROL_API = "controlapi"
    ALLOCATOR = "allocator"
    SCHEDULER = "scheduler"
    ORCHESTRATOR = "orchestrator"
    REAPER = "reaper"
    DISPATCHER = "dispatcher"
    MANAGER = "manager"


_ON_NODE: Final = [
    TaskState.ASSIGNED,
    TaskState.ACCEPTED,
    TaskState.PREPARING,
    TaskState.READY,
    TaskState.STARTING,
    TaskState.RUNNING,
]
_REPORTED: Final = [
    *_ON_NODE[1:],
    TaskState.COMPLETE,
    TaskState.SHUTDOWN,
    TaskState.FAILED,
    TaskState.REJECTED,
]

TRANSITIONS: Final[dict[Component, set[tuple[TaskState, TaskState]]]] = {
    Component.ALLOCATOR: {(TaskState.NEW, TaskState.PENDING)},
    Component.SCHEDULER: {(TaskState.PENDING, TaskState.ASSIGNED)},
    Component.DISPATCHER: {(old, new) for old in _ON_NODE for new in _REPORTED if new > old},
    Component.ORCHESTRATOR: {(old, TaskState.ORPHANED) for old in _ON_NODE},
}
"""(from, to) of `task.status.state`. Creation is always in NEW, by the orchestrator."""


def violation(component: Component, old: Task | None, new: Task) -> str:
    """Why this change of a task is not the component's to make; empty when it is."""
    if old is None:
        if component is Component.ORCHESTRATOR and new.status.state is TaskState.NEW:
            return ""
        return f"{component} may not create task {new.id} in state {new.status.state.label}"
    if new.desired_state < old.desired_state:
        return f"{component} moves the desired state of task {new.id} back to {new.desired_state.label}"
    before, after = old.status.state, new.status.state
    if before is after or (before, after) in TRANSITIONS.get(component, set()):
        return ""
    return f"{component} may not move task {new.id} from {before.label} to {after.label}"
