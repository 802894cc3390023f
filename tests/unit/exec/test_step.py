"""`step` over every desired state x status x container phase, and the runs that tasks really make."""

from __future__ import annotations

from itertools import product

import pytest
from msgspec.structs import replace

from api.types.objects import Task, TaskState, TaskStatus
from api.types.swarm import ContainerSpec, TaskSpec
from worker.exec.step import Action, Observation, Phase, failure, step, stop_grace_ns

S = TaskState
NOW = 1_000
DESIRED = [S.READY, S.RUNNING, S.SHUTDOWN, S.REMOVE]


def task(desired: TaskState) -> Task:
    return Task(id="t1", service_name="web", slot=1, desired_state=desired)


def status(state: TaskState) -> TaskStatus:
    return TaskStatus(state=state, message="before", container_id="c1" if state >= S.READY else "")


def seen(phase: Phase, exit_code: int = 0, error: str = "") -> Observation:
    container = "" if phase is Phase.ABSENT else "c1"
    return Observation(phase, container, 42 if phase is Phase.RUNNING else 0, exit_code, error)


def brief(desired: TaskState, state: TaskState, observed: Observation) -> tuple[TaskState | None, Action | None]:
    result = step(task(desired), status(state), observed, NOW)
    return (result.status.state if result.status else None), result.action


A, C, R, E = Phase.ABSENT, Phase.CREATED, Phase.RUNNING, Phase.EXITED
HEADED = {  # (state, phase) -> what happens while the task is wanted running
    (S.ASSIGNED, A): S.ACCEPTED, (S.ASSIGNED, C): S.ACCEPTED, (S.ASSIGNED, R): S.ACCEPTED, (S.ASSIGNED, E): S.ACCEPTED,
    (S.ACCEPTED, A): S.PREPARING, (S.ACCEPTED, C): S.PREPARING, (S.ACCEPTED, R): S.PREPARING,
    (S.ACCEPTED, E): S.PREPARING,
    (S.PREPARING, A): Action.PREPARE, (S.PREPARING, C): S.READY, (S.PREPARING, R): S.READY, (S.PREPARING, E): S.READY,
    (S.READY, A): S.REJECTED, (S.READY, C): S.STARTING, (S.READY, R): S.STARTING, (S.READY, E): S.STARTING,
    (S.STARTING, A): S.FAILED, (S.STARTING, C): Action.START, (S.STARTING, R): S.RUNNING, (S.STARTING, E): S.COMPLETE,
    (S.RUNNING, A): S.FAILED, (S.RUNNING, C): S.FAILED, (S.RUNNING, R): Action.WAIT, (S.RUNNING, E): S.COMPLETE,
}  # fmt: skip
LIVE = [S.ASSIGNED, S.ACCEPTED, S.PREPARING, S.READY, S.STARTING, S.RUNNING]
ENDED = [S.COMPLETE, S.SHUTDOWN, S.FAILED, S.REJECTED, S.ORPHANED]


@pytest.mark.parametrize(("state", "phase"), list(product(LIVE, Phase)))
def test_towards_running(state: TaskState, phase: Phase) -> None:
    expected = HEADED[state, phase]
    assert expected in brief(S.RUNNING, state, seen(phase))


@pytest.mark.parametrize(("state", "phase"), list(product(LIVE, Phase)))
def test_towards_ready_differs_only_in_waiting_there(state: TaskState, phase: Phase) -> None:
    if state is S.READY and phase is not A:
        assert brief(S.READY, state, seen(phase)) == (None, Action.IDLE)
    else:
        assert brief(S.READY, state, seen(phase)) == brief(S.RUNNING, state, seen(phase))


@pytest.mark.parametrize(("desired", "state", "phase"), list(product([S.SHUTDOWN, S.REMOVE], LIVE, Phase)))
def test_towards_the_end_of_what_lives(desired: TaskState, state: TaskState, phase: Phase) -> None:
    expected = (None, Action.STOP) if phase is R else (S.SHUTDOWN, None)
    assert brief(desired, state, seen(phase)) == expected


@pytest.mark.parametrize(("desired", "state", "phase"), list(product(DESIRED, ENDED, Phase)))
def test_what_has_ended_stays_so(desired: TaskState, state: TaskState, phase: Phase) -> None:
    if phase is R:
        expected = Action.STOP
    elif desired < S.REMOVE:
        expected = Action.IDLE
    else:
        expected = Action.DONE if phase is A else Action.REMOVE
    assert brief(desired, state, seen(phase)) == (None, expected)


@pytest.mark.parametrize(("desired", "state", "phase"), list(product(DESIRED, S, Phase)))
def test_a_step_is_one_thing_and_never_goes_back(desired: TaskState, state: TaskState, phase: Phase) -> None:
    result = step(task(desired), status(state), seen(phase, exit_code=3), NOW)
    assert (result.status is None) != (result.action is None)
    if result.status is not None:
        assert result.status.state > state
        assert result.status.timestamp == NOW
        assert result.status.message


def test_exit_codes_decide_between_complete_and_failed() -> None:
    done = step(task(S.RUNNING), status(S.RUNNING), seen(E, 0), NOW).status
    assert done is not None
    assert (done.state, done.message, done.exit_code, done.err) == (S.COMPLETE, "finished", 0, "")
    started = TaskStatus(state=S.RUNNING, message="started", container_id="c1", pid=42)
    bad = step(task(S.RUNNING), started, seen(E, 1), NOW).status
    assert bad is not None
    assert (bad.state, bad.message, bad.exit_code, bad.err) == (S.FAILED, "started", 1, "task: non-zero exit (1)")
    assert (bad.pid, bad.container_id) == (0, "c1")
    oom = step(task(S.RUNNING), started, seen(E, 137, "OOM killed"), NOW).status
    assert oom is not None
    assert oom.err == "task: non-zero exit (137): OOM killed"


def test_a_stopped_task_is_shutdown_whatever_its_exit_code() -> None:
    ended = step(task(S.SHUTDOWN), status(S.RUNNING), seen(E, 143), NOW).status
    assert ended is not None
    assert (ended.state, ended.exit_code, ended.err) == (S.SHUTDOWN, 143, "")


@pytest.mark.parametrize("state", LIVE)
def test_errors_before_the_start_reject_and_fail_from_then_on(state: TaskState) -> None:
    before = TaskStatus(state=state, message="preparing")
    after = failure(before, "No such image: nope:latest", NOW)
    assert after.state is (S.FAILED if state >= S.STARTING else S.REJECTED)
    assert (after.message, after.err, after.timestamp) == ("preparing", "No such image: nope:latest", NOW)


def test_the_running_status_names_the_process() -> None:
    result = step(task(S.RUNNING), status(S.STARTING), seen(R), NOW).status
    assert result is not None
    assert (result.pid, result.container_id, result.message) == (42, "c1", "started")


def test_the_grace_period_is_the_specs_or_ten_seconds() -> None:
    assert stop_grace_ns(task(S.RUNNING)) == 10_000_000_000
    spec = TaskSpec(container_spec=ContainerSpec(stop_grace_period=0))
    assert stop_grace_ns(replace(task(S.RUNNING), spec=spec)) == 0
