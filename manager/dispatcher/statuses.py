"""Task statuses on their way into the store: gathered for a moment, committed together, acknowledged when durable."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from api import errors
from api.types.dispatch import TaskStatusUpdate
from api.types.objects import Task, TaskState, TaskStatus
from manager.store.store import ACTIONS_MAX, Batch, Store
from manager.store.transitions import TRANSITIONS, Component

log = logging.getLogger(__name__)

BATCH_S = 0.1


def merged(task: Task, status: TaskStatus) -> Task | None:
    """The task with a reported status; None when the report says nothing new or would move it back. Pure."""
    before = task.status
    if before.state is status.state:
        return None if before == status else msgspec.structs.replace(task, status=status)
    if (before.state, status.state) not in TRANSITIONS[Component.DISPATCHER]:
        return None
    return msgspec.structs.replace(task, status=status)


class StatusWriter:
    """Collects reports of all nodes; only the newest of a task counts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: dict[str, tuple[str, TaskStatus]] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._woken = asyncio.Event()

    async def report(self, node_id: str, updates: list[TaskStatusUpdate]) -> None:
        """Returns when the reports are committed. A report about another node's task is dropped."""
        if not updates:
            return
        for update in updates:
            known = self._pending.get(update.task_id)
            if known is None or known[1].state <= update.status.state:
                self._pending[update.task_id] = (node_id, update.status)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._woken.set()
        await done

    async def run(self) -> None:
        """Runs until cancelled; whoever waits then is told to try another manager."""
        try:
            while True:
                await self._woken.wait()
                await asyncio.sleep(BATCH_S)
                await self.flush()
        finally:
            self._fail(errors.Unavailable("this manager is no longer the leader"))

    async def flush(self) -> None:
        """Commit all that is gathered."""
        waiting, self._waiting = self._waiting, []
        self._woken.clear()
        try:
            while self._pending:
                await self._store.update(Component.DISPATCHER, self._step)
        except BaseException:
            self._waiting = waiting + self._waiting
            raise
        for done in waiting:
            if not done.done():
                done.set_result(None)

    def _step(self, batch: Batch) -> None:
        while self._pending and len(batch.actions) < ACTIONS_MAX:
            task_id, (node_id, status) = self._pending.popitem()
            task = batch.view.get(Task, task_id)
            if task is None or task.node_id != node_id:
                continue
            new = merged(task, status)
            if new is None:
                continue
            batch.put(new)
            if new.status.state is not task.status.state:
                _log_change(task, new)

    def _fail(self, error: Exception) -> None:
        for done in self._waiting:
            if not done.done():
                done.set_exception(error)
        self._waiting.clear()
        self._pending.clear()


def _log_change(old: Task, new: Task) -> None:
    level = logging.WARNING if new.status.state in (TaskState.FAILED, TaskState.REJECTED) else logging.DEBUG
    log.log(
        level,
        "task state task=%s node=%s from=%s to=%s desired=%s err=%s",
        new.id,
        new.node_id,
        old.status.state.label,
        new.status.state.label,
        new.desired_state.label,
        new.status.err or "-",
    )
