"""Tells the managers how tasks are: the latest status of each, in batches, again and again until acknowledged.

A status that was overtaken before it was sent is never sent; one that was overtaken while it travelled stays pending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import islice

from msgspec.structs import replace

from api.types.dispatch import TaskStatusUpdate
from api.types.objects import TaskStatus
from worker.agent.limits import ERROR_CHARACTERS_MAX, REPORT_GATHER_S, REPORT_UPDATES_MAX

Send = Callable[[list[TaskStatusUpdate]], Awaitable[None]]
"""Returns when a manager has made the updates durable; raises otherwise."""
Acknowledged = Callable[[dict[str, TaskStatus]], Awaitable[None]]


class Reporter:
    """Statuses that no manager has acknowledged yet. At most one for each task of the node."""

    def __init__(self, acknowledged: Acknowledged) -> None:
        self._acknowledged = acknowledged
        self._pending: dict[str, TaskStatus] = {}
        self._wake = asyncio.Event()

    @property
    def pending(self) -> dict[str, TaskStatus]:
        return dict(self._pending)

    def report(self, task_id: str, status: TaskStatus) -> None:
        """Send this status, in place of an older one of the same task."""
        if len(status.err) > ERROR_CHARACTERS_MAX:
            status = replace(status, err=status.err[:ERROR_CHARACTERS_MAX] + "…")
        self._pending[task_id] = status
        self._wake.set()

    def forget(self, task_id: str) -> None:
        """The task is no longer ours: nobody waits for its status."""
        self._pending.pop(task_id, None)

    async def run(self, send: Send) -> None:
        """Send what is pending and what comes, for one session. Raises what `send` raises; what was not acknowledged
        is sent by the next session's run."""
        while True:
            if not self._pending:
                self._wake.clear()
                await self._wake.wait()
            await asyncio.sleep(REPORT_GATHER_S)
            batch = dict(islice(self._pending.items(), REPORT_UPDATES_MAX))
            if not batch:
                continue
            await send([TaskStatusUpdate(task_id=task_id, status=status) for task_id, status in batch.items()])
            settled = {task_id: status for task_id, status in batch.items() if self._pending.get(task_id) is status}
            for task_id in settled:
                del self._pending[task_id]
            await self._acknowledged(settled)
