"""Joins a client's connection and a process's stream, for attach and for exec.

The pump ends when the process has ended and everything was sent, when the client is gone, or when it detaches. The
client's half-close ends only its input: output goes on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from api.wire.stdcopy import frame
from worker.engine.containers.detach import DetachScanner
from worker.engine.parts import STDERR, STDOUT, Stream


class Connection(Protocol):
    """A hijacked connection."""

    async def read(self) -> bytes:
        """Next input; `b""` when no more comes."""
        ...

    async def write(self, data: bytes) -> None:
        """Waits while the client is slow. Raises ConnectionResetError when it is gone."""
        ...

    async def write_eof(self) -> None: ...

    async def close(self) -> None: ...

    async def wait_lost(self) -> None: ...


@dataclass(frozen=True)
class Wiring:
    """What flows, and how."""

    tty: bool = False
    """Raw, without frames."""
    raw: bool = False
    """Without frames, but two streams."""
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    keys: bytes = b""
    """Detach keys; empty: no way to detach."""
    close_stdin: bool = False
    """The client's half-close closes the process's stdin."""

    def wants(self, stream_id: int) -> bool:
        """With a terminal all output is one stream, for whoever asked for either."""
        if self.tty:
            return self.stdout or self.stderr
        return (stream_id == STDOUT and self.stdout) or (stream_id == STDERR and self.stderr)

    def dress(self, stream_id: int, data: bytes) -> bytes:
        return data if self.tty or self.raw else frame(stream_id, data)


async def pump(stream: Stream, connection: Connection, wiring: Wiring) -> bool:
    """Run until the end; True if the client detached. Closes the stream; the connection is the caller's."""
    try:
        async with asyncio.TaskGroup() as group:
            output = group.create_task(_output(stream, connection, wiring))
            typed = group.create_task(_input(stream, connection, wiring))
            lost = group.create_task(connection.wait_lost())
            waiting: set[asyncio.Task[bool] | asyncio.Task[None]] = {output, typed, lost}
            while not (output.done() or lost.done() or (typed.done() and typed.result())):
                await asyncio.wait(waiting - {task for task in waiting if task.done()}, return_when="FIRST_COMPLETED")
            for task in waiting:
                task.cancel()
        return typed.done() and not typed.cancelled() and typed.result()
    finally:
        await stream.close()


async def _output(stream: Stream, connection: Connection, wiring: Wiring) -> None:
    try:
        async for stream_id, data in stream:
            if wiring.wants(stream_id):
                await connection.write(wiring.dress(stream_id, data))
    except ConnectionResetError:
        return


async def _input(stream: Stream, connection: Connection, wiring: Wiring) -> bool:
    """True when the client typed the detach keys."""
    scanner = DetachScanner(wiring.keys) if wiring.tty and wiring.keys else None
    while data := await connection.read():
        if not wiring.stdin:
            continue
        detached = False
        if scanner is not None:
            data, detached = scanner.feed(data)
        if data:
            await stream.write(data)
        if detached:
            return True
    if wiring.stdin:
        if scanner is not None and (held := scanner.flush()):
            await stream.write(held)
        if wiring.close_stdin:
            await stream.close_stdin()
    return False
