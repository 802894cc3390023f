"""What tasks hold of a node's resources. Pure. Used by the scheduler and the rebalancer."""

from __future__ import annotations

from api.types.objects import Task, TaskState
from api.types.swarm import Resources


def reservations(task: Task) -> Resources:
    """What the task wants to be sure of."""
    resources = task.spec.resources
    return (resources.reservations if resources is not None else None) or Resources()


def occupies(task: Task) -> bool:
    """Whether it holds its node's resources, or will."""
    held = task.status.state >= TaskState.ASSIGNED and not task.status.state.terminal
    return held and task.desired_state <= TaskState.RUNNING
