"""The reporter: latest status of each task, batches, retried until acknowledged."""

from __future__ import annotations

import asyncio

import pytest

from api.errors import Unavailable
from api.types.dispatch import TaskStatusUpdate
from api.types.objects import TaskState, TaskStatus
from worker.agent.limits import ERROR_CHARACTERS_MAX
from worker.agent.reporter import Reporter

RUNNING, COMPLETE = TaskStatus(state=TaskState.RUNNING), TaskStatus(state=TaskState.COMPLETE)


class Wire:
    """Where batches go; holds or fails them as told."""

    def __init__(self) -> None:
        self.batches: list[dict[str, TaskState]] = []
        self.errors: list[Exception] = []
        self.held = asyncio.Event()
        self.held.set()
        self.sent = asyncio.Event()
        self.settled: dict[str, TaskStatus] = {}
        self.news = asyncio.Condition()

    async def send(self, updates: list[TaskStatusUpdate]) -> None:
        self.batches.append({update.task_id: update.status.state for update in updates})
        self.sent.set()
        await self.held.wait()
        if self.errors:
            raise self.errors.pop(0)

    async def acknowledged(self, settled: dict[str, TaskStatus]) -> None:
        async with self.news:
            self.settled |= settled
            self.news.notify_all()

    async def settles(self, task_id: str, status: TaskStatus) -> None:
        async with asyncio.timeout(5), self.news:
            await self.news.wait_for(lambda: self.settled.get(task_id) == status)


async def test_only_the_latest_status_travels_and_all_tasks_together() -> None:
    wire = Wire()
    reporter = Reporter(wire.acknowledged)
    reporter.report("a", RUNNING)
    reporter.report("a", COMPLETE)
    reporter.report("b", RUNNING)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(reporter.run(wire.send))
        await wire.settles("a", COMPLETE)
        work.cancel()
    assert wire.batches == [{"a": TaskState.COMPLETE, "b": TaskState.RUNNING}]
    assert reporter.pending == {}


async def test_a_failed_report_is_sent_again_by_the_next_session() -> None:
    wire = Wire()
    wire.errors.append(Unavailable("gone"))
    reporter = Reporter(wire.acknowledged)
    reporter.report("a", RUNNING)
    with pytest.raises(Unavailable):
        await reporter.run(wire.send)
    assert reporter.pending == {"a": RUNNING}
    assert wire.settled == {}
    async with asyncio.TaskGroup() as group:
        work = group.create_task(reporter.run(wire.send))
        await wire.settles("a", RUNNING)
        work.cancel()
    assert len(wire.batches) == 2


async def test_a_status_that_changes_while_the_old_one_travels_is_sent_too() -> None:
    wire = Wire()
    wire.held.clear()
    reporter = Reporter(wire.acknowledged)
    reporter.report("a", RUNNING)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(reporter.run(wire.send))
        await wire.sent.wait()
        reporter.report("a", COMPLETE)
        wire.held.set()
        await wire.settles("a", COMPLETE)
        work.cancel()
    assert wire.batches == [{"a": TaskState.RUNNING}, {"a": TaskState.COMPLETE}]


async def test_a_forgotten_task_is_not_reported_and_a_long_error_is_cut() -> None:
    reporter = Reporter(Wire().acknowledged)
    reporter.report("a", RUNNING)
    reporter.forget("a")
    assert reporter.pending == {}
    reporter.report("b", TaskStatus(state=TaskState.FAILED, err="x" * 100_000))
    assert len(reporter.pending["b"].err) == ERROR_CHARACTERS_MAX + 1
