"""What to do next for a task: a pure function of the task, its last status and what the engine shows.

A step is either a new status or one action on the engine, never both; the controller (worker.exec.controller) reports
or acts and asks again. So a daemon that crashed between any two steps goes on where the engine's state says it is:
a container that runs is adopted, never started twice. Statuses only move forward.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from msgspec.structs import replace

from api.types.objects import Task, TaskState, TaskStatus
from base.clock import NS

STOP_GRACE_NS = 10 * NS
"""Docker's default of `StopGracePeriod`."""
STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
"""What a health check has found so far (v1.24 section 3.1, `Health.Status`)."""


class Phase(enum.Enum):
    """Of a task's container."""

    ABSENT = "absent"
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True)
class Observation:
    """What the engine shows of a task's container."""

    phase: Phase
    container_id: str = ""
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    """The engine's words when the container could not be started or was killed for want of memory."""
    health: str = ""
    """`starting`, `healthy` or `unhealthy`; empty without a health check."""


class Action(enum.Enum):
    """One thing to ask of the engine."""

    PREPARE = "prepare"
    """Pull the image if it is absent, create the container."""
    START = "start"
    WAIT = "wait"
    """Until the container has ended or its health has changed."""
    STOP = "stop"
    """By signal, then by force after the grace period."""
    REMOVE = "remove"
    IDLE = "idle"
    """Nothing to do until the task changes."""
    DONE = "done"
    """Nothing to do ever again: the container is gone."""


@dataclass(frozen=True)
class Step:
    """Exactly one of the two."""

    status: TaskStatus | None = None
    action: Action | None = None


_MESSAGES = {
    TaskState.ACCEPTED: "accepted",
    TaskState.PREPARING: "preparing",
    TaskState.READY: "prepared",
    TaskState.STARTING: "starting",
    TaskState.RUNNING: "started",
    TaskState.COMPLETE: "finished",
    TaskState.SHUTDOWN: "shutdown",
}
"""The words that `docker service ps` users know. A failure keeps the message of the state it happened in."""


def step(task: Task, status: TaskStatus, seen: Observation, now_ns: int) -> Step:
    """The next step for a task.

    Args:
        status: the last one recorded on this node; the managers may not have seen it yet.
        seen: freshly observed, after the last action.
    """
    if status.state.terminal:
        return _ended(task, seen)
    if task.desired_state > TaskState.RUNNING:
        return _stopping(status, seen, now_ns)
    return _STEPS[max(status.state, TaskState.ASSIGNED)](task, status, seen, now_ns)


def failure(status: TaskStatus, error: str, now_ns: int) -> TaskStatus:
    """The status after an action failed: rejected before the start was tried, failed from then on."""
    state = TaskState.FAILED if status.state >= TaskState.STARTING else TaskState.REJECTED
    return replace(status, state=state, err=error, timestamp=now_ns, pid=0)


def stop_grace_ns(task: Task) -> int:
    """How long a container may take to obey the stop signal."""
    grace = task.spec.container_spec.stop_grace_period
    return STOP_GRACE_NS if grace is None else max(0, grace)


# --- by state ----------------------------------------------------------------------------------------------------


def _ended(task: Task, seen: Observation) -> Step:
    if seen.phase is Phase.RUNNING:
        return Step(action=Action.STOP)
    if task.desired_state < TaskState.REMOVE:
        return Step(action=Action.IDLE)  # the container stays for its logs until the task is history
    return Step(action=Action.DONE if seen.phase is Phase.ABSENT else Action.REMOVE)


def _stopping(status: TaskStatus, seen: Observation, now_ns: int) -> Step:
    if seen.phase is Phase.RUNNING:
        return Step(action=Action.STOP)
    return _reach(TaskState.SHUTDOWN, status, seen, now_ns)


def _assigned(task: Task, status: TaskStatus, seen: Observation, now_ns: int) -> Step:
    return _reach(TaskState.ACCEPTED, status, seen, now_ns)


def _accepted(task: Task, status: TaskStatus, seen: Observation, now_ns: int) -> Step:
    return _reach(TaskState.PREPARING, status, seen, now_ns)


def _preparing(task: Task, status: TaskStatus, seen: Observation, now_ns: int) -> Step:
    if seen.phase is Phase.ABSENT:
        return Step(action=Action.PREPARE)
    return _reach(TaskState.READY, status, seen, now_ns)


def _ready(task: Task, status: TaskStatus, seen: Observation, now_ns: int) -> Step:
    if seen.phase is Phase.ABSENT:
        return _vanished(status, now_ns)
    if task.desired_state < TaskState.RUNNING:
        return Step(action=Action.IDLE)  # prepared ahead; the restart delay or an update holds it here
    return _reach(TaskState.STARTING, status, seen, now_ns)


def _starting(task: Task, status: TaskStatus, seen: Observation, now_ns: int) -> Step:
    if seen.phase is Phase.CREATED:
        return Step(action=Action.START)
    if seen.phase is Phase.RUNNING:
        if seen.health == STARTING:
            return Step(action=Action.WAIT)  # the container runs; the task does when its health check says so
        return _unhealthy(status, seen, now_ns) or _reach(TaskState.RUNNING, status, seen, now_ns)
    return _over(status, seen, now_ns)


def _running(task: Task, status: TaskStatus, seen: Observation, now_ns: int) -> Step:
    if seen.phase is Phase.RUNNING:
        return _unhealthy(status, seen, now_ns) or Step(action=Action.WAIT)
    return _over(status, seen, now_ns)


_STEPS = {
    TaskState.ASSIGNED: _assigned,
    TaskState.ACCEPTED: _accepted,
    TaskState.PREPARING: _preparing,
    TaskState.READY: _ready,
    TaskState.STARTING: _starting,
    TaskState.RUNNING: _running,
}


def _over(status: TaskStatus, seen: Observation, now_ns: int) -> Step:
    """The container is not running any more, and nobody asked it to stop."""
    if seen.phase is Phase.ABSENT:
        return _vanished(status, now_ns)
    if seen.phase is Phase.CREATED:
        return Step(status=failure(status, "task: container is not running", now_ns))
    if seen.exit_code == 0 and not seen.error:
        return _reach(TaskState.COMPLETE, status, seen, now_ns)
    error = f"task: non-zero exit ({seen.exit_code})"
    ended = failure(status, f"{error}: {seen.error}" if seen.error else error, now_ns)
    return Step(status=replace(ended, container_id=seen.container_id, exit_code=seen.exit_code))


def _unhealthy(status: TaskStatus, seen: Observation, now_ns: int) -> Step | None:
    """An unhealthy container has failed its task; `_ended` stops it."""
    if seen.health != UNHEALTHY:
        return None
    ended = failure(status, "task: unhealthy container", now_ns)
    return Step(status=replace(ended, container_id=seen.container_id))


def _vanished(status: TaskStatus, now_ns: int) -> Step:
    return Step(status=failure(status, f"No such container: {status.container_id or 'removed'}", now_ns))


def _reach(state: TaskState, status: TaskStatus, seen: Observation, now_ns: int) -> Step:
    assert state > status.state, f"a task never goes back: {status.state.name} -> {state.name}"
    return Step(
        status=TaskStatus(
            timestamp=now_ns,
            state=state,
            message=_MESSAGES[state],
            container_id=seen.container_id or status.container_id,
            pid=seen.pid,
            exit_code=seen.exit_code if seen.phase is Phase.EXITED and state.terminal else 0,
        )
    )
