"""The daemon's ends of a monitor's socket: `MonitoredProcess` (control) and `MonitorStream` (an attacher)."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal as signals
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

from api.errors import Conflict, Internal, NotFound
from worker.engine.parts import Exit, LogEnd
from worker.engine.runtime import frames

_T = TypeVar("_T")
DIAL_SECONDS = 20.0
"""A monitor accepts within that; one that does not counts as one that does not listen."""
_DIAL_AGAIN_SECONDS = 0.005
READ_AHEAD = 512 * 1024
"""Bytes of output the daemon holds for one attacher before it lets the socket fill."""


class EndedProcess:
    """A process that ended while no daemon ran: only its exit is left."""

    def __init__(self, pid: int, exit: Exit) -> None:
        self.pid = pid
        self._exit = exit

    async def wait(self) -> Exit:
        return self._exit

    async def attach(self) -> MonitorStream:
        raise Conflict("the process has ended")

    async def resize(self, height: int, width: int) -> None:
        raise Conflict("the process has ended")


class MonitoredProcess(asyncio.Protocol):
    """The control connection of one monitor."""

    def __init__(self, directory: Path, exit_file: Path, on_lost: Callable[[MonitoredProcess], None]) -> None:
        """`on_lost` is called if the monitor dies without having left an exit; it must call `give_up`."""
        loop = asyncio.get_running_loop()
        self.pid = 0
        self.directory = directory
        self._exit_file = exit_file
        self._on_lost = on_lost
        self._parser = frames.Parser()
        self._transport: asyncio.Transport | None = None
        self._listening: asyncio.Future[None] = loop.create_future()
        self._ready: asyncio.Future[str] = loop.create_future()
        self._exit: asyncio.Future[Exit] = loop.create_future()
        self._left: asyncio.Future[None] = loop.create_future()
        self._started: deque[asyncio.Future[str]] = deque()
        self._pidfd = -1
        self._first: MonitorStream | None = None

    # --- protocol ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(frames.frame(frames.CONTROL))

    def data_received(self, data: bytes) -> None:
        for kind, payload in self._parser.feed(data):
            if kind == frames.LISTENING:
                _resolve(self._listening, None)
            elif kind == frames.READY:
                self._set_pid(json.loads(payload)["pid"])
            elif kind == frames.FAILED:
                _resolve(self._ready, payload.decode(errors="replace") or "the runtime failed")
            elif kind == frames.STARTED and self._started:
                _resolve(self._started.popleft(), payload.decode(errors="replace"))
            elif kind == frames.EXIT:
                self._ended(parse_exit(payload))

    def connection_lost(self, error: Exception | None) -> None:
        _resolve(self._listening, None)
        _resolve(self._ready, "its monitor died")
        for started in self._started:
            _resolve(started, "" if self._exit.done() else "its monitor died")
        self._started.clear()
        if self.pid and not self._exit.done():
            found = read_exit(self._exit_file)
            if found is not None:
                self._ended(found)
            else:
                self._on_lost(self)
        _resolve(self._left, None)

    def _set_pid(self, pid: int) -> None:
        self.pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            pass  # it has ended already; the exit is on its way
        _resolve(self._ready, "")

    def _ended(self, exit: Exit) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        _resolve(self._exit, exit)

    # --- for the runtime -----------------------------------------------------------------------------------------

    async def ready(self) -> str:
        """Wait until the process exists; what went wrong, or ""."""
        return await asyncio.shield(self._ready)

    async def attach_first(self) -> None:
        """Attach on behalf of the first `attach` to come, before the monitor creates the process.

        Raises:
            OSError, Conflict: the monitor failed.
        """
        await asyncio.shield(self._listening)
        self._first = await self._connect_stream()

    async def start(self) -> str:
        """Let the created process run; what went wrong, or ""."""
        if self._transport is None or self._transport.is_closing():
            return "its monitor died"
        started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._started.append(started)
        self._transport.write(frames.frame(frames.START))
        return await asyncio.shield(started)

    async def left(self) -> None:
        """Wait until the monitor is done with its directory."""
        await asyncio.shield(self._left)

    def kill(self, signal: int) -> None:
        """Raises NotFound if the process has ended."""
        if self._pidfd < 0:
            raise NotFound("no process runs")
        try:
            signals.pidfd_send_signal(self._pidfd, signal)
        except ProcessLookupError:
            raise NotFound("no process runs") from None

    @property
    def ended(self) -> bool:
        return self._exit.done()

    def give_up(self, exit: Exit) -> None:
        """The monitor died and with it the true exit: this is what is told instead."""
        self._ended(exit)

    def close(self) -> None:
        """Forget the monitor; it and its process go on."""
        if self._transport is not None:
            self._transport.abort()
        self._on_lost = _ignore
        if self._first is not None:
            self._first.abort()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    # --- Process -------------------------------------------------------------------------------------------------

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def attach(self) -> MonitorStream:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._exit.done():
            raise Conflict("the process has ended")
        try:
            return await self._connect_stream()
        except OSError as error:
            raise Conflict("the process has ended") from error

    async def _connect_stream(self) -> MonitorStream:
        stream = MonitorStream()
        peer = await _dial(self.directory / "sock")
        await asyncio.get_running_loop().create_unix_connection(lambda: stream, sock=peer)
        await stream.ready()
        return stream

    async def resize(self, height: int, width: int) -> None:
        if self._transport is None or self._exit.done():
            raise Conflict("the process has ended")
        size = frames.SIZE.pack(min(max(height, 0), 65535), min(max(width, 0), 65535))
        self._transport.write(frames.frame(frames.RESIZE, size))


class MonitorStream(asyncio.Protocol):
    """One attacher. Reads no further than READ_AHEAD beyond what the caller took."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.log_end: LogEnd | None = None
        self._parser = frames.Parser()
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[bool] = loop.create_future()
        self._output: deque[tuple[int, bytes]] = deque()
        self._held = 0
        self._ended = False
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = False
        self._gave_stdin = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(frames.frame(frames.ATTACH))

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        for kind, payload in self._parser.feed(data):
            if kind in (frames.STDOUT, frames.STDERR):
                self._output.append((kind, payload))
                self._held += len(payload)
            elif kind == frames.READY:
                self.log_end = _log_end(json.loads(payload).get("log"))
                _resolve(self._ready, True)
            elif kind == frames.ENDED:
                _resolve(self._ready, False)
            elif kind == frames.EXIT:
                self._ended = True
        if self._held > READ_AHEAD:
            self._transport.pause_reading()
        self._arrived.set()

    def connection_lost(self, error: Exception | None) -> None:
        _resolve(self._ready, False)
        self._lost = self._ended = True
        self._arrived.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def ready(self) -> None:
        """Wait until the monitor has taken this attacher in; raises Conflict if the process has ended."""
        if not await asyncio.shield(self._ready):
            await self.close()
            raise Conflict("the process has ended")

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        while True:
            while self._output:
                item = self._output.popleft()
                self._held -= len(item[1])
                if self._held <= READ_AHEAD // 2 and self._transport is not None and not self._lost:
                    self._transport.resume_reading()
                yield item
            if self._ended:
                return
            self._arrived.clear()
            await self._arrived.wait()

    async def write(self, data: bytes) -> None:
        self._gave_stdin = True
        for start in range(0, len(data), frames.MAX_PAYLOAD):
            await self._writable.wait()
            if self._lost or self._transport is None:
                return  # as a pipe whose reader has gone would: the process's end is told elsewhere
            self._transport.write(frames.frame(frames.STDIN, data[start : start + frames.MAX_PAYLOAD]))
        await self._writable.wait()

    async def close_stdin(self) -> None:
        self._gave_stdin = True
        if self._transport is not None and not self._lost:
            self._transport.write(frames.frame(frames.CLOSE_STDIN))

    async def close(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        # Said, not only done: when the daemon dies instead, stdin stays open for the next attacher.
        if not self._lost:
            self._transport.write(frames.frame(frames.DETACH))
        self._transport.close()

    def abort(self) -> None:
        """Drop the connection without a word."""
        if self._transport is not None:
            self._transport.abort()


async def connect(
    directory: Path, exit_file: Path, on_lost: Callable[[MonitoredProcess], None], existing: socket.socket | None = None
) -> MonitoredProcess:
    """The control connection to the monitor of `directory`, over `existing` if there is one.

    Raises:
        OSError: no monitor listens there.
    """
    loop = asyncio.get_running_loop()
    process = MonitoredProcess(directory, exit_file, on_lost)
    if existing is not None:
        existing.setblocking(False)
    await loop.create_unix_connection(lambda: process, sock=existing or await _dial(directory / "sock"))
    return process


async def _dial(path: Path) -> socket.socket:
    """Connect to a monitor. A unix socket on which too many wait to be accepted says EAGAIN, which asyncio takes for a
    connection that is under way: one that never comes. Raises OSError."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.setblocking(False)
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            while True:
                try:
                    peer.connect(str(path))
                    return peer
                except BlockingIOError:
                    await asyncio.sleep(_DIAL_AGAIN_SECONDS)
    except BaseException:
        peer.close()
        raise


def _log_end(told: dict[str, Any] | None) -> LogEnd | None:
    if told is None:
        return None
    rests = {int(stream): base64.b64decode(rest) for stream, rest in told["rests"].items()}
    return LogEnd(told["inode"], told["size"], rests)


def parse_exit(content: bytes) -> Exit:
    """An exit as the monitor writes it."""
    fields = json.loads(content)
    return Exit(code=fields["code"], at_ns=fields["at_ns"], oom=fields["oom"], error=fields["error"])


def read_exit(path: Path) -> Exit | None:
    """The exit file, None if there is none."""
    try:
        return parse_exit(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, LookupError) as error:
        raise Internal(f"{path} is damaged: {error}") from error


def _resolve(future: asyncio.Future[_T], value: _T) -> None:
    if not future.done():
        future.set_result(value)


def _ignore(_: MonitoredProcess) -> None:
    return None
