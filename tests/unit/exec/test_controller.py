"""The controller shell: a whole life, failures, interrupted pulls, adoption after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from api.errors import Internal, InvalidArgument, NotFound
from api.types.objects import Task, TaskState, TaskStatus
from base.clock import SystemClock
from tests.unit.exec.engine import Box, FakeEngine
from worker.exec.controller import Controller
from worker.exec.step import Phase

S = TaskState
TASK = Task(id="t1", service_name="web", slot=1, desired_state=S.RUNNING)
ASSIGNED = TaskStatus(state=S.ASSIGNED)


class Driven:
    """A controller that runs, and the statuses it reported."""

    def __init__(self, engine: FakeEngine, task: Task = TASK, status: TaskStatus = ASSIGNED) -> None:
        self.engine = engine
        self.reported: list[TaskStatus] = []
        self._news = asyncio.Condition()
        self.controller = Controller(task, status, engine, self._report, SystemClock())

    async def _report(self, task_id: str, status: TaskStatus) -> None:
        assert task_id == TASK.id
        async with self._news:
            self.reported.append(status)
            self._news.notify_all()

    async def reaches(self, state: TaskState) -> TaskStatus:
        async with asyncio.timeout(5), self._news:
            await self._news.wait_for(lambda: any(status.state is state for status in self.reported))
        return next(status for status in self.reported if status.state is state)

    def states(self) -> list[TaskState]:
        return [status.state for status in self.reported]


@asynccontextmanager
async def running(driven: Driven) -> AsyncIterator[asyncio.Task[None]]:
    async with asyncio.TaskGroup() as group:
        work = group.create_task(driven.controller.run())
        yield work
        work.cancel()


async def test_a_whole_life() -> None:
    driven = Driven(FakeEngine())
    async with running(driven) as work:
        await driven.reaches(S.RUNNING)
        assert driven.states() == [S.ACCEPTED, S.PREPARING, S.READY, S.STARTING, S.RUNNING]
        driven.controller.update(replace(TASK, desired_state=S.SHUTDOWN))
        ended = await driven.reaches(S.SHUTDOWN)
        assert ended.exit_code == 143
        assert driven.engine.graces == [10_000_000_000]
        assert "t1" in driven.engine.boxes, "kept for its logs"
        driven.controller.retire()
        async with asyncio.timeout(5):
            await work
    assert driven.engine.calls == [("prepare", "t1"), ("start", "t1"), ("stop", "t1"), ("remove", "t1")]
    assert driven.engine.boxes == {}


@pytest.mark.parametrize(("code", "state"), [(0, S.COMPLETE), (1, S.FAILED), (137, S.FAILED)])
async def test_a_process_that_ends_by_itself(code: int, state: TaskState) -> None:
    driven = Driven(FakeEngine())
    async with running(driven):
        await driven.reaches(S.RUNNING)
        driven.engine.exit("t1", code)
        assert (await driven.reaches(state)).exit_code == code


async def test_an_unknown_image_rejects_the_task_with_the_engines_words() -> None:
    engine = FakeEngine()
    engine.fail("prepare", NotFound("No such image: nope:latest"))
    driven = Driven(engine)
    async with running(driven):
        status = await driven.reaches(S.REJECTED)
    assert (status.message, status.err) == ("preparing", "No such image: nope:latest")


async def test_a_command_that_can_not_start_fails_the_task() -> None:
    engine = FakeEngine()
    engine.fail("start", InvalidArgument('exec: "nope": executable file not found in $PATH'))
    driven = Driven(engine)
    async with running(driven):
        status = await driven.reaches(S.FAILED)
    assert "executable file not found" in status.err
    assert driven.states()[-1] is S.FAILED


async def test_an_engine_that_breaks_is_no_end_of_the_node() -> None:
    engine = FakeEngine()

    async def broken(task: Task) -> None:
        raise ZeroDivisionError

    engine.prepare = broken  # type: ignore[method-assign]
    driven = Driven(engine)
    async with running(driven):
        assert "internal error" in (await driven.reaches(S.REJECTED)).err


async def test_shutdown_cuts_a_pull_short() -> None:
    engine = FakeEngine()
    engine.pull_held.clear()
    driven = Driven(engine)
    async with running(driven):
        await driven.reaches(S.PREPARING)
        driven.controller.update(replace(TASK, desired_state=S.SHUTDOWN))
        await driven.reaches(S.SHUTDOWN)
    assert engine.boxes == {}


async def test_running_wanted_during_a_pull_does_not_begin_it_again() -> None:
    engine = FakeEngine()
    engine.pull_held.clear()
    ready = replace(TASK, desired_state=S.READY)
    driven = Driven(engine, ready)
    async with running(driven):
        await driven.reaches(S.PREPARING)
        driven.controller.update(TASK)
        engine.pull_held.set()
        await driven.reaches(S.RUNNING)
    assert engine.calls.count(("prepare", "t1")) == 1


async def test_a_task_prepared_ahead_waits_to_be_started() -> None:
    driven = Driven(FakeEngine(), replace(TASK, desired_state=S.READY))
    async with running(driven):
        await driven.reaches(S.READY)
        assert driven.engine.boxes["t1"].phase is Phase.CREATED
        driven.controller.update(TASK)
        await driven.reaches(S.RUNNING)


async def test_a_running_container_is_adopted_and_not_started_again() -> None:
    engine = FakeEngine()
    engine.boxes["t1"] = Box("c9", Phase.RUNNING)
    driven = Driven(engine, TASK, TaskStatus(state=S.RUNNING, container_id="c9"))
    async with running(driven):
        await asyncio.sleep(0)
        engine.exit("t1", 0)
        await driven.reaches(S.COMPLETE)
    assert engine.calls == []


async def test_what_ended_while_nobody_looked_is_told_with_its_exit_code() -> None:
    engine = FakeEngine()
    engine.boxes["t1"] = Box("c9", Phase.EXITED, exit_code=3)
    driven = Driven(engine, TASK, TaskStatus(state=S.RUNNING, container_id="c9"))
    async with running(driven):
        assert (await driven.reaches(S.FAILED)).err == "task: non-zero exit (3)"


async def test_a_crash_between_create_and_its_status_does_not_create_again() -> None:
    engine = FakeEngine()
    engine.boxes["t1"] = Box("c9")
    driven = Driven(engine, TASK, TaskStatus(state=S.PREPARING))
    async with running(driven):
        assert (await driven.reaches(S.RUNNING)).container_id == "c9"
    assert engine.calls == [("start", "t1")]


async def test_a_stop_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.exec.controller.RETRY_S", 0.001)
    engine = FakeEngine()
    engine.boxes["t1"] = Box("c9", Phase.RUNNING)
    engine.fail("stop", Internal("no"), Internal("no"))
    engine.fail("observe", Internal("no"))
    driven = Driven(engine, replace(TASK, desired_state=S.SHUTDOWN), TaskStatus(state=S.RUNNING))
    async with running(driven):
        await driven.reaches(S.SHUTDOWN)
    assert engine.calls == [("stop", "t1")] * 3


async def test_a_wish_from_the_past_is_not_taken() -> None:
    driven = Driven(FakeEngine(), replace(TASK, desired_state=S.SHUTDOWN))
    driven.controller.update(TASK)
    assert driven.controller.task.desired_state is S.SHUTDOWN


async def test_a_health_check_decides_when_a_task_runs() -> None:
    engine = FakeEngine()
    engine.health = "starting"
    driven = Driven(engine)
    async with running(driven):
        await driven.reaches(S.STARTING)
        while ("start", "t1") not in engine.calls:
            await asyncio.sleep(0)
        engine.judge("t1", "starting")
        await asyncio.sleep(0.01)
        assert driven.states()[-1] is S.STARTING
        engine.judge("t1", "healthy")
        await driven.reaches(S.RUNNING)
        engine.judge("t1", "unhealthy")
        failed = await driven.reaches(S.FAILED)
        assert failed.err == "task: unhealthy container"
        while engine.boxes["t1"].phase is Phase.RUNNING:
            await asyncio.sleep(0)
    assert ("stop", "t1") in engine.calls, "a failed task's container does not run on"


async def test_a_container_that_never_becomes_healthy_fails_its_task() -> None:
    engine = FakeEngine()
    engine.health = "starting"
    driven = Driven(engine)
    async with running(driven):
        await driven.reaches(S.STARTING)
        while ("start", "t1") not in engine.calls:
            await asyncio.sleep(0)
        engine.judge("t1", "unhealthy")
        await driven.reaches(S.FAILED)
    assert S.RUNNING not in driven.states()


async def test_a_start_that_fails_tells_the_engines_exit_code() -> None:
    engine = FakeEngine()
    engine.fail("start", InvalidArgument("no such command"))
    engine.start_exit_code = 127
    driven = Driven(engine)
    async with running(driven):
        failed = await driven.reaches(S.FAILED)
    assert (failed.exit_code, failed.container_id) == (127, "container-1")
