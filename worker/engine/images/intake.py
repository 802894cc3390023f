"""Bytes that arrive on the event loop, read by a thread that blocks: archives are unpacked while they come in.

Invariant: at most a few chunks wait between the two; when the sender fails or leaves, the reader ends with an error,
and a reader that ends early lets the sender go. Each stream has a thread of its own: slow senders hold up nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from api.errors import Cancelled
from base.offload import Pool
from worker.engine.images import limits

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_WAITING_MAX = 4


@dataclass(frozen=True)
class Incoming:
    """A body, to be read in its thread."""

    source: io.BufferedReader
    thread: Pool


class _Intake(io.RawIOBase):
    """The hand-over; `put` and `end` belong to the event loop, the rest to the reading thread."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._changed = threading.Condition()
        self._waiting: deque[memoryview] = deque()
        self._ended = False
        self._broken = False

    async def put(self, data: bytes) -> None:
        while len(self._waiting) >= _WAITING_MAX:
            self._room.clear()
            if len(self._waiting) >= _WAITING_MAX:
                await self._room.wait()
        with self._changed:
            self._waiting.append(memoryview(data))
            self._changed.notify()

    def end(self, *, broken: bool) -> None:
        with self._changed:
            self._broken = self._broken or (broken and not self._ended)
            self._ended = True
            self._changed.notify()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Raises Cancelled when the sender has gone."""
        with self._changed:
            while not self._waiting and not self._ended:
                self._changed.wait()
            if self._broken:
                raise Cancelled("context canceled")
            if not self._waiting:
                return 0
            target = memoryview(buffer)
            block = self._waiting[0]
            size = min(len(block), len(target))
            target[:size] = block[:size]
            if size < len(block):
                self._waiting[0] = block[size:]
                return size
            self._waiting.popleft()
        self._loop.call_soon_threadsafe(self._room.set)
        return size


async def gathered(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The body in pieces of about a chunk: threads are not called for every packet."""
    parts: list[bytes] = []
    size = 0
    async for data in body:
        parts.append(data)
        size += len(data)
        if size >= limits.CHUNK:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


async def _fill(intake: _Intake, body: AsyncIterator[bytes]) -> None:
    broken = True
    try:
        async for data in gathered(body):
            await intake.put(data)
        broken = False
    finally:
        intake.end(broken=broken)


def _drain(source: io.BufferedReader) -> None:
    while source.read(limits.CHUNK):
        pass


@contextlib.asynccontextmanager
async def incoming(body: AsyncIterator[bytes], name: str) -> AsyncIterator[Incoming]:
    """A body as a blocking stream, for the length of a block; what it leaves is read, and whatever ends it ends its
    thread."""
    intake = _Intake()
    thread = Pool(name, 1)
    try:
        async with asyncio.TaskGroup() as group:
            filling = group.create_task(_fill(intake, body), name=f"{name}-body")
            source = cast("io.BufferedReader", io.BufferedReader(intake, limits.CHUNK))
            try:
                try:
                    yield Incoming(source, thread)
                finally:
                    # A sender that is stopped half way may not hear the answer.
                    if not isinstance(sys.exc_info()[1], asyncio.CancelledError):
                        await thread.run(_drain, source)
            finally:
                intake.end(broken=True)
                filling.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        await asyncio.to_thread(thread.close)
