"""Start, stop, restart, kill, pause, unpause, wait, rename: the verbs on one container, each under its lock."""

from __future__ import annotations

import asyncio
import logging

from api.errors import Conflict, InvalidArgument, NotFound, NotModified
from worker.engine.containers.exits import Exits
from worker.engine.containers.kit import Kit
from worker.engine.containers.names import check_name
from worker.engine.containers.signals import SIGKILL, SIGTERM, parse_signal
from worker.engine.containers.start import Starter
from worker.engine.containers.states import Status
from worker.engine.containers.store import Container

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10
KILL_WAIT_S = 10.0
"""How long the kernel may take to end a killed process before we say so."""


class Lifecycle:
    def __init__(self, kit: Kit, starter: Starter, exits: Exits) -> None:
        self._kit = kit
        self._starter = starter
        self._exits = exits

    async def start(self, ref: str) -> None:
        """Raises NotModified if it runs already."""
        container = self._kit.store.get(ref)
        async with container.lock:
            status = container.record.status
            if status is Status.PAUSED:
                raise Conflict("cannot start a paused container, try unpause instead")
            if status is Status.RUNNING:
                raise NotModified(f"container {container.id} is already running")
            if status in (Status.REMOVING, Status.DEAD):
                raise Conflict("container is marked for removal and cannot be started")
            if status is Status.RESTARTING:
                await self._exits.call_off(container)
            await self._start_afresh(container)

    async def _start_afresh(self, container: Container) -> None:
        """A start that a user asked for forgets the failures before it."""
        if container.record.failures:
            await self._kit.store.save(container, failures=0)
        await self._starter.start(container)

    async def stop(self, ref: str, timeout_s: int | None) -> None:
        """The stop signal, then SIGKILL after `timeout_s` (None: 10; below 0: never). Raises NotModified if it does
        not run."""
        container = self._kit.store.get(ref)
        async with container.lock:
            if not container.live:
                raise NotModified(f"container {container.id} is already stopped")
            await self._stop(container, timeout_s)
        self._kit.events.publish("container", "stop", container.id, container.attributes())

    async def _stop(self, container: Container, timeout_s: int | None) -> None:
        if container.record.status is Status.RESTARTING:
            await self._exits.call_off(container)
            return
        await self._kit.store.save(container, manually_stopped=True)
        number = parse_signal(container.record.config.stop_signal or SIGTERM)
        wait_s = STOP_TIMEOUT_S if timeout_s is None else timeout_s
        await self._signal(container, number)
        if not await _ends(container, wait_s if wait_s >= 0 else None):
            await self._kill_and_wait(container)
        # It may have ended by itself, and its policy have spoken, just before it was marked as stopped.
        await self._exits.call_off(container)

    async def _kill_and_wait(self, container: Container) -> None:
        await self._signal(container, SIGKILL)
        if not await _ends(container, KILL_WAIT_S):
            raise Conflict(f"container {container.id} did not end {KILL_WAIT_S:.0f} s after SIGKILL")
        await self._exits.call_off(container)

    async def _signal(self, container: Container, number: int) -> None:
        """Send; a process that has just ended is no error. A paused one has to wake to see it."""
        try:
            await self._kit.runtime.kill(container.id, number)
        except NotFound:
            return
        self._kit.events.publish("container", "kill", container.id, container.attributes(signal=str(number)))
        if container.record.status is Status.PAUSED:
            await self._kit.runtime.resume(container.id)

    async def restart(self, ref: str, timeout_s: int | None) -> None:
        """Stop it if it runs, then start it."""
        container = self._kit.store.get(ref)
        async with container.lock:
            if container.record.status in (Status.REMOVING, Status.DEAD):
                raise Conflict("container is marked for removal and cannot be started")
            if container.live:
                await self._stop(container, timeout_s)
                self._kit.events.publish("container", "stop", container.id, container.attributes())
            await self._start_afresh(container)
        self._kit.events.publish("container", "restart", container.id, container.attributes())

    async def kill(self, ref: str, signal: str = "") -> None:
        """Send a signal; SIGKILL (the default) also waits for the end. Raises Conflict if it does not run."""
        try:
            container = self._kit.store.get(ref)
        except NotFound as error:
            raise NotFound(f"Cannot kill container: {ref}: {error.message}") from None
        try:
            number = parse_signal(signal or SIGKILL)
        except InvalidArgument:
            if not signal.isdecimal():
                raise
            raise InvalidArgument(
                f"Cannot kill container: {ref}: The linux daemon does not support signal {signal}"
            ) from None
        async with container.lock:
            if container.record.status is Status.RESTARTING:
                await self._exits.call_off(container)
                return
            if not container.running:
                raise Conflict(f"Cannot kill container: {ref}: Container {container.id} is not running")
            stops = number in (SIGKILL, parse_signal(container.record.config.stop_signal or SIGTERM))
            if stops:
                await self._kit.store.save(container, manually_stopped=True)
            if number == SIGKILL:
                await self._kill_and_wait(container)
            else:
                await self._signal(container, number)

    async def pause(self, ref: str) -> None:
        container = self._kit.store.get(ref)
        async with container.lock:
            if container.record.status is Status.PAUSED:
                raise Conflict(f"Container {container.id} is already paused")
            if container.record.status is not Status.RUNNING:
                raise Conflict(f"Container {container.id} is not running")
            await self._kit.runtime.pause(container.id)
            if not await self._move(container, Status.RUNNING, Status.PAUSED):
                raise Conflict(f"Container {container.id} is not running")
        self._kit.events.publish("container", "pause", container.id, container.attributes())

    async def unpause(self, ref: str) -> None:
        container = self._kit.store.get(ref)
        async with container.lock:
            if container.record.status is not Status.PAUSED:
                raise Conflict(f"Container {container.id} is not paused")
            await self._kit.runtime.resume(container.id)
            await self._move(container, Status.PAUSED, Status.RUNNING)  # unless it ended at the moment it woke
        self._kit.events.publish("container", "unpause", container.id, container.attributes())

    async def _move(self, container: Container, before: Status, after: Status) -> bool:
        """False if its run has ended meanwhile."""
        return await self._kit.store.change(
            container, lambda record: {"status": after} if record.status is before else None
        )

    async def wait(self, ref: str) -> int:
        """The exit code once it has ended for good (restarts of its policy included); at once if it does not run."""
        container = self._kit.store.get(ref)
        if container.live and container.outcome is not None:
            return await asyncio.shield(container.outcome)
        return container.record.exit_code

    async def rename(self, ref: str, name: str) -> None:
        """Raises Conflict if the name is taken, also by the container itself."""
        container = self._kit.store.get(ref)
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        async with container.lock:
            old = container.record.name
            if name.removeprefix("/") == old:
                raise Conflict("Renaming a container with the same name as its current name")
            try:
                with self._kit.store.reserve(check_name(f"/{name.removeprefix('/')}"), container.id) as checked:
                    await self._kit.store.save(container, name=checked)
            except (Conflict, InvalidArgument) as error:
                raise type(error)(f"Error when allocating new name: {error.message}") from None
        self._kit.events.publish("container", "rename", container.id, container.attributes(oldName=f"/{old}"))

    async def resize(self, ref: str, height: int, width: int) -> None:
        """Characters. Raises Conflict if it does not run."""
        container = self._kit.store.get(ref)
        if container.process is None or not container.running:
            raise Conflict(f"Container {container.id} is not running")
        await container.process.resize(height, width)
        sizes = {"height": str(height), "width": str(width)}
        self._kit.events.publish("container", "resize", container.id, container.attributes(**sizes))


async def _ends(container: Container, within_s: float | None) -> bool:
    """Wait for the end of the present run, and until what it held (ports, mounts) is free again."""
    try:
        async with asyncio.timeout(within_s):
            await container.run_ended.wait()
    except TimeoutError:
        if container.running:
            return False
    await container.settled.wait()
    return True
