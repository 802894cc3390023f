"""Attaching to a container's main process (v1.24 "Attach to a container").

A client may attach before the process exists: `docker run` does. It is connected before the process's first byte.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from api.errors import Conflict, InvalidArgument, ShoalError
from api.types.stream import AttachOptions, LogOptions
from worker.engine.containers.detach import parse_keys
from worker.engine.containers.kit import Kit
from worker.engine.containers.logs import Logs
from worker.engine.containers.pump import Connection, Wiring, pump
from worker.engine.containers.states import Status
from worker.engine.containers.store import Container
from worker.engine.parts import LogEnd, Stream


class AttachSession:
    """One client that is about to be attached: `run` it, or `close` it."""

    def __init__(
        self,
        kit: Kit,
        logs: Logs,
        container: Container,
        options: AttachOptions,
        future: asyncio.Future[Stream] | None,
        quiet: LogEnd | None = None,
    ) -> None:
        """`quiet`: where the log ends while no process writes it."""
        self._quiet = quiet
        self._kit = kit
        self._logs = logs
        self._container = container
        self._options = options
        self._future = future
        config = container.record.config
        self._wiring = Wiring(
            tty=config.tty,
            raw=options.raw,
            stdin=options.stdin and config.open_stdin,
            stdout=options.stdout,
            stderr=options.stderr,
            keys=parse_keys(options.detach_keys),
            close_stdin=config.stdin_once and not config.tty,
        )

    async def run(self, connection: Connection) -> None:
        """Serve the client until the process ends, the client leaves or detaches. Closes the connection."""
        try:
            if self._options.logs:
                await self._replay(connection)
            if self._future is not None:
                stream = await self._stream(connection)
                if stream is not None and await pump(stream, connection, self._wiring):
                    container = self._container
                    self._kit.events.publish("container", "detach", container.id, container.attributes())
            await connection.write_eof()
        except (ShoalError, ConnectionResetError):
            pass  # the head is out: how the start failed is told by the start
        finally:
            self.close()
            await connection.close()

    async def _replay(self, connection: Connection) -> None:
        """What the log has up to where the stream begins: no byte is missing between them, none comes twice. The whole
        log if no stream follows."""
        options = LogOptions(stdout=self._options.stdout, stderr=self._options.stderr)
        end, future = self._quiet, self._future
        if future is not None and future.done() and future.exception() is None and self._quiet is None:
            end = future.result().log_end
        async for data in self._logs.frames(self._container, options, raw=self._options.raw, end=end):
            await connection.write(data)

    async def _stream(self, connection: Connection) -> Stream | None:
        """The process's stream once it exists; None if the client went away before."""
        assert self._future is not None
        future = self._future
        async with asyncio.TaskGroup() as group:
            lost = group.create_task(connection.wait_lost())
            waiting: set[asyncio.Future[Any]] = {future, lost}
            await asyncio.wait(waiting, return_when="FIRST_COMPLETED")
            lost.cancel()
        return future.result() if future.done() else None

    def close(self) -> None:
        """Give up waiting."""
        if self._future is not None and not self._future.done():
            self._future.cancel()
        if self._future in self._container.pending:
            self._container.pending.remove(self._future)


class Attacher:
    def __init__(self, kit: Kit, logs: Logs) -> None:
        self._kit = kit
        self._logs = logs

    async def attach(self, ref: str, options: AttachOptions) -> AttachSession:
        """Register a client; from here on it misses nothing. Raises Conflict for a paused container."""
        container = self._kit.store.get(ref)
        if container.record.status is Status.PAUSED:
            raise Conflict(f"Container {container.id} is paused. Unpause the container before attach")
        if container.record.status is Status.RESTARTING:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        parse_keys(options.detach_keys)
        if not (options.logs or options.stream):
            raise InvalidArgument("Either the stream or logs parameter (or both) must be true")
        future: asyncio.Future[Stream] | None = None
        quiet: LogEnd | None = None
        if options.stream:
            future = asyncio.get_running_loop().create_future()
            if container.process is not None:
                await self._attach_now(container, future)
            else:
                quiet = _end_of(self._kit.layout.log(container.id))
                container.pending.append(future)
        self._kit.events.publish("container", "attach", container.id, container.attributes())
        return AttachSession(self._kit, self._logs, container, options, future, quiet)

    async def _attach_now(self, container: Container, future: asyncio.Future[Stream]) -> None:
        assert container.process is not None
        try:
            future.set_result(await container.process.attach())
        except Conflict as error:  # it ended this moment: an empty stream, after its log if that was asked for
            future.set_exception(error)
            future.exception()


def _end_of(log: Path) -> LogEnd:
    """Where a log ends that nobody writes."""
    try:
        found = log.stat()
    except FileNotFoundError:
        return LogEnd(0, 0)
    return LogEnd(found.st_ino, found.st_size)
