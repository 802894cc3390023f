"""Who owns an asyncio task. This is the only module that may create one outside an asyncio.TaskGroup.

A `TaskOwner` holds background work that outlives the call that began it. Its tasks have names; one that fails
is logged and handed to `on_failure`; `close()` cancels all and waits until they are gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


class TaskOwner:
    """Owns a set of named tasks until `close()`."""

    def __init__(self, name: str, on_failure: Callable[[BaseException], None] | None = None) -> None:
        self.name = name
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start `work`; its failure is logged, and reported to the owner's `on_failure`."""
        if self._closed:
            work.close()
            raise RuntimeError(f"{self.name} is closed")
        task = asyncio.get_running_loop().create_task(work, name=f"{self.name}/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("background task failed task=%s", task.get_name(), exc_info=error)
            if self._on_failure is not None:
                self._on_failure(error)

    def names(self) -> list[str]:
        """The tasks that run now, for debug output and leak checks."""
        return sorted(task.get_name() for task in self._tasks)

    async def drain(self) -> None:
        """Wait until all of its tasks have ended, also those that begin meanwhile."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Cancel every task and wait for its end. New tasks are refused from here on."""
        self._closed = True
        current = asyncio.current_task()
        while tasks := [task for task in self._tasks if task is not current]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancel one task and wait until it has ended, whatever it ends with."""
    task.cancel()
    await asyncio.wait([task])
