"""The restart supervisor's rules: whether an ended task gets a successor, and when that one may run. Pure.

They read nothing but the slot's tasks in the store, so a new leader goes on where the old one stopped.
Source: v1.24 section 3.9, RestartPolicy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from api.types.objects import Node, NodeState, Task, TaskState
from api.types.swarm import RestartPolicy
from base.clock import NS

DEFAULT_DELAY_NS: Final = 5 * NS
SELF_ENDED: Final = frozenset({TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED})
"""Ended without being told to."""


def policy_of(task: Task) -> RestartPolicy:
    return task.spec.restart_policy or RestartPolicy()


def should_restart(task: Task, history: Sequence[Task]) -> bool:
    """Whether a task that ended by itself gets a successor.

    Args:
        history: the slot's tasks, oldest first, `task` among them. Only tasks of the same spec count as attempts,
            and with a window only those that ended within it before this one did.
    """
    policy = policy_of(task)
    if policy.condition == "none":
        return False
    if policy.condition == "on-failure" and task.status.state is TaskState.COMPLETE:
        return False
    if not policy.max_attempts:
        return True
    window = policy.window or 0
    attempts = [
        other
        for other in history
        if other.id != task.id
        and other.spec_version == task.spec_version
        and other.status.state in SELF_ENDED
        and (not window or task.status.timestamp - other.status.timestamp < window)
    ]
    return len(attempts) < policy.max_attempts


def attempts_to_remember(task: Task) -> int:
    """How many tasks of its slot must stay in the store for `should_restart` to count right."""
    return (policy_of(task).max_attempts or 0) + 1


def stopped(task: Task, nodes: Mapping[str, Node]) -> bool:
    """Whether nothing of the task runs any more, as far as can be known: a node that is down is taken for gone."""
    if task.status.state.terminal or task.status.state < TaskState.ASSIGNED:
        return True
    node = nodes.get(task.node_id)
    return node is None or node.status.state is NodeState.DOWN


def release_time(task: Task, before: Sequence[Task], nodes: Mapping[str, Node]) -> int | None:
    """When a task held at READY may run, in ns; 0 at once, None: not before one of the tasks before it stops."""
    if not all(stopped(other, nodes) for other in before):
        return None
    if not before:
        return 0
    last = before[-1]
    if last.status.state not in SELF_ENDED or last.spec_version != task.spec_version:
        return 0
    delay = policy_of(task).delay
    return task.meta.created_at + (DEFAULT_DELAY_NS if delay is None else delay)
