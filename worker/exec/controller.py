"""Drives one task: observe, decide (worker.exec.step), report or act, again.

The controller holds no truth of its own: the task's last status is durable before anyone hears of it, the container's
state is the engine's. When the daemon stops, `run` is cancelled and the container runs on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from msgspec.structs import replace

from api.errors import Internal, ShoalError
from api.types.dataplane import OverlayChange
from api.types.objects import Task, TaskState, TaskStatus
from base.clock import Clock
from worker.exec.step import Action, Observation, failure, step, stop_grace_ns

log = logging.getLogger(__name__)

RETRY_S = 1.0
"""After the engine failed to show, stop or remove a container."""
_INTERRUPTIBLE = frozenset({Action.PREPARE, Action.WAIT})
"""The wish to end the task cuts these short; the others are quick or must come to their end."""


class TaskEngine(Protocol):
    """The engine, as far as tasks need it. Errors are `api.errors` kinds."""

    async def apply_networks(self, change: OverlayChange) -> bool:
        """What the managers say of networks. Answers whether all of it is in force; the engine keeps trying."""
        ...

    async def observe(self, task: Task) -> Observation:
        """The task's container, found by its label."""
        ...

    async def prepare(self, task: Task) -> None:
        """Pull if absent, create. Cancellation: what was pulled may stay, no half container does."""
        ...

    async def start(self, container_id: str) -> None: ...

    async def wait(self, container_id: str) -> None:
        """Until it has ended or its health has changed; at once if it is not running."""
        ...

    async def stop(self, container_id: str, grace_ns: int) -> None:
        """Returns when it has ended; already ended or gone is no error."""
        ...

    async def remove(self, container_id: str) -> None:
        """With its anonymous volumes; gone is no error."""
        ...


Report = Callable[[str, TaskStatus], Awaitable[None]]
"""Told of each new status; durable on return."""


class Controller:
    """One task on this node."""

    def __init__(self, task: Task, status: TaskStatus, engine: TaskEngine, report: Report, clock: Clock) -> None:
        self.task = task
        self.status = status
        self._engine = engine
        self._report = report
        self._clock = clock
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()
        if task.desired_state > TaskState.RUNNING:
            self._ending.set()

    def update(self, task: Task) -> None:
        """The managers' wish changed. A desired state never goes back, whatever order messages came in."""
        desired = max(task.desired_state, self.task.desired_state)
        if desired != self.task.desired_state:
            self._changed.set()
        if desired > TaskState.RUNNING:
            self._ending.set()
        self.task = replace(task, desired_state=desired)

    def retire(self) -> None:
        """The task is no longer this node's: stop, remove, end."""
        self.update(replace(self.task, desired_state=TaskState.REMOVE))

    async def run(self) -> None:
        """Returns when the task is to be removed and its container is gone."""
        while True:
            self._changed.clear()
            try:
                seen = await self._engine.observe(self.task)
            except ShoalError as error:
                log.warning("container not observed task_id=%s error=%s", self.task.id, error)
                await self._pause()
                continue
            next_ = step(self.task, self.status, seen, self._clock.now_ns())
            if next_.status is not None:
                await self._move(next_.status)
            elif next_.action is Action.DONE:
                return
            else:
                assert next_.action is not None
                await self._act(next_.action, seen)

    async def _move(self, status: TaskStatus) -> None:
        log.info(
            "task state task_id=%s service=%s from=%s to=%s desired=%s err=%s",
            self.task.id, self.task.service_name, self.status.state.label, status.state.label,
            self.task.desired_state.label, status.err,
        )  # fmt: skip
        await self._report(self.task.id, status)
        self.status = status

    async def _act(self, action: Action, seen: Observation) -> None:
        error = await self._perform(self._work(action, seen), interruptible=action in _INTERRUPTIBLE)
        if error is None:
            return
        if action in (Action.PREPARE, Action.START):
            await self._fail(action, error)
            return
        log.warning("action failed task_id=%s action=%s error=%s", self.task.id, action.value, error)
        await self._pause()

    async def _fail(self, action: Action, error: ShoalError) -> None:
        """Preparing or starting failed, and so has the task; with the exit code that the engine gives such an end."""
        text = error.message if action is Action.PREPARE else f"starting container failed: {error.message}"
        status = failure(self.status, text, self._clock.now_ns())
        if action is Action.START:
            with contextlib.suppress(ShoalError):
                seen = await self._engine.observe(self.task)
                status = replace(status, container_id=seen.container_id, exit_code=seen.exit_code)
        await self._move(status)

    async def _work(self, action: Action, seen: Observation) -> None:
        match action:
            case Action.PREPARE:
                await self._engine.prepare(self.task)
            case Action.START:
                await self._engine.start(seen.container_id)
            case Action.WAIT:
                await self._engine.wait(seen.container_id)
            case Action.STOP:
                await self._engine.stop(seen.container_id, stop_grace_ns(self.task))
            case Action.REMOVE:
                await self._engine.remove(seen.container_id)
            case _:
                await self._changed.wait()

    async def _perform(self, work: Coroutine[Any, Any, None], *, interruptible: bool) -> ShoalError | None:
        """Run `work`, cancelled when the task is to end if it may be. Returns its error."""
        if not interruptible:
            return await _caught(work)
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(self._ending.wait())
            working = group.create_task(_caught(work))
            await asyncio.wait((ending, working), return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            working.cancel()
        return None if working.cancelled() else working.result()

    async def _pause(self) -> None:
        """A moment before the next try, shorter if the task changes."""
        try:
            async with asyncio.timeout(RETRY_S):
                await self._changed.wait()
        except TimeoutError:
            pass


async def _caught(work: Awaitable[None]) -> ShoalError | None:
    try:
        await work
    except ShoalError as error:
        return error
    except Exception:
        log.exception("the engine broke")
        return Internal("internal error; see the node's log")
    return None
