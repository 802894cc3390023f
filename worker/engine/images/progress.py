"""Progress messages of long image operations, in Docker's words, and their way to a client that may be slow.

Invariant: a feed holds at most one pending progress message a layer; all other messages are kept in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
Message = dict[str, Any]
Report = Callable[[Message], None]
BAR_WIDTH = 50
PENDING_MAX = 1000
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def silent(_message: Message) -> None:
    """For callers that want no progress."""


def human_size(size: float) -> str:
    """Four significant digits and a decimal unit: `32.77kB`."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.4g}{_UNITS[unit]}"


def bar(current: int, total: int) -> str:
    """`[====>    ]  32.77kB/1.293MB`; without a known total only the size so far."""
    if total <= 0 or current > total:
        return human_size(current)
    done = current * BAR_WIDTH // total
    head = "=" * done + (">" if done < BAR_WIDTH else "")
    return f"[{head:<{BAR_WIDTH}}]  {human_size(current)}/{human_size(total)}"


def step(status: str, current: int, total: int, key: str) -> Message:
    """How far one layer is."""
    detail = {"current": current, **({"total": total} if total > 0 else {})}
    return {"status": status, "progressDetail": detail, "progress": bar(current, total), "id": key}


def state(status: str, key: str) -> Message:
    """A layer's new state."""
    return {"status": status, "progressDetail": {}, "id": key}


class Feed:
    """Takes messages from a worker (call it), gives them to a sender (iterate)."""

    def __init__(self) -> None:
        self._pending: dict[object, Message] = {}
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._closed = False

    def __call__(self, message: Message) -> None:
        """Add a message; a newer progress of the same layer takes the place of an older one."""
        key: object = object()
        if message.get("progressDetail"):
            key = message.get("id")
        self._pending[key] = message
        self._arrived.set()

    async def room(self) -> None:
        """Wait while more is pending than a slow client should make us keep; for workers that never end talking."""
        while len(self._pending) >= PENDING_MAX and not self._closed:
            self._taken.clear()
            await self._taken.wait()

    def close(self) -> None:
        self._closed = True
        self._arrived.set()
        self._taken.set()

    async def __aiter__(self) -> AsyncIterator[Message]:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._pending:
                yield self._pending.pop(next(iter(self._pending)))
                self._taken.set()
            if self._closed:
                return


async def drive(work: Callable[[Report], Awaitable[T]], send: Callable[[Message], Awaitable[None]]) -> T:
    """Run `work` while sending what it reports; all of it is sent before this returns or raises.

    Cancellation, or a `send` that fails (the client left), cancels the work and waits for its end.
    """
    feed = Feed()

    async def run() -> T | Exception:
        try:
            return await work(feed)
        except Exception as error:  # noqa: BLE001 - raised again below, after the last message was sent
            return error
        finally:
            feed.close()

    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(run(), name="image-operation")
            async for message in feed:
                await send(message)
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    result = task.result()
    if isinstance(result, Exception):
        raise result
    return result
