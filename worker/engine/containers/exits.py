"""The end of a run: written down, told, cleaned away, and followed by a restart if the policy says so.

It does not take the container's lock: whoever holds that (stop, kill) is waiting for this very end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from api.errors import ShoalError
from base.supervise import cancel_and_wait
from worker.engine.containers.kit import Kit
from worker.engine.containers.records import ContainerRecord
from worker.engine.containers.restart import Again, after_exit
from worker.engine.containers.rootfs import Rootfs
from worker.engine.containers.states import Status
from worker.engine.containers.store import Container
from worker.engine.parts import Exit, Process

log = logging.getLogger(__name__)


class Exits:
    """Watches processes. `restart` is what starts a container again (under its lock)."""

    def __init__(self, kit: Kit, rootfs: Rootfs) -> None:
        self._kit = kit
        self._rootfs = rootfs
        self.start: Callable[[Container], Awaitable[None]] | None = None
        """Starts a container whose lock is held; joined by the engine."""
        self.began: Callable[[Container], None] | None = None
        """Told of every run that is watched from now on; joined by the engine."""

    def watch(self, container: Container, process: Process) -> None:
        """Wait for the end of `process` in the background."""
        if self.began is not None:
            self.began(container)
        self._kit.owner.spawn(self._watch(container, process), name=f"watch {container.id[:12]}")

    async def _watch(self, container: Container, process: Process) -> None:
        ended = await process.wait()
        if container.process is process:
            await self.ended(container, ended)

    async def ended(self, container: Container, ended: Exit) -> None:
        """Everything that follows the end of a run."""
        kit = self._kit
        again: Again | None = None

        def written(record: ContainerRecord) -> dict[str, Any]:
            nonlocal again
            again = _follows(record, ended.code, ended.at_ns - record.started_ns, record.failures)
            return {
                "status": Status.RESTARTING if again else Status.EXITED,
                "pid": 0,
                "exit_code": ended.code,
                "oom_killed": ended.oom,
                "error": ended.error,
                "finished_ns": ended.at_ns,
                # Kept when the policy gives up: a start of the daemon does not try again.
                "failures": again.failures if again else record.failures,
            }

        container.settled.clear()
        try:
            await kit.store.change(container, written)
            container.process = None
            if ended.oom:
                kit.events.publish("container", "oom", container.id, container.attributes())
            kit.events.publish("container", "die", container.id, container.attributes(exitCode=str(ended.code)))
            container.run_ended.set()
            if not again:
                container.finish()
            await self.clean(container)
        finally:
            container.settled.set()
        if again:
            self.restart_later(container, again.delay_s)

    async def clean(self, container: Container) -> None:
        """Take back what a run used. Every step is taken, whatever the others do."""
        kit = self._kit
        async with asyncio.TaskGroup() as both:  # the process is dead, and neither needs the other
            both.create_task(_step("delete", kit.runtime.delete(container.id)))
            both.create_task(_step("detach network", kit.networks.detach(container.id)))
        for mount in container.record.mounts:
            if mount.type == "volume":
                await _step("unmount volume", kit.volumes.unmount(mount.name, container.id))
        await _step("unmount root", self._rootfs.unmount(container.id))

    def restart_later(self, container: Container, delay_s: float) -> None:
        """Start it again after a while, unless somebody stops it before (`call_off`)."""
        container.restart_task = self._kit.owner.spawn(
            self._restart(container, delay_s), name=f"restart {container.id[:12]}"
        )

    async def _restart(self, container: Container, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        async with container.lock:
            container.restart_task = None
            if container.record.status is not Status.RESTARTING:
                return
            assert self.start is not None, "joined by the engine"
            failures = container.record.failures
            await self._kit.store.save(container, restart_count=container.record.restart_count + 1)
            try:
                await self.start(container)
            except ShoalError as error:
                log.warning("restart failed container=%s error=%s", container.id[:12], error.message)
                await self._not_started(container, failures)

    async def _not_started(self, container: Container, failures: int) -> None:
        """A start that fails is a run that ended at once."""
        again = _follows(container.record, container.record.exit_code, 0, failures)
        await self._kit.store.save(
            container,
            status=Status.RESTARTING if again else Status.EXITED,
            finished_ns=self._kit.clock.now_ns(),
            failures=again.failures if again else failures,
        )
        if again:
            self.restart_later(container, again.delay_s)
        else:
            container.finish()

    async def call_off(self, container: Container) -> None:
        """No restart any more: the container is exited. The caller holds the lock."""
        task, container.restart_task = container.restart_task, None
        if task is not None:
            await cancel_and_wait(task)
        if container.record.status is Status.RESTARTING:
            await self._kit.store.save(container, status=Status.EXITED, manually_stopped=True, failures=0)
            container.finish()


def _follows(record: ContainerRecord, exit_code: int, ran_ns: int, failures: int) -> Again | None:
    """What the restart policy says to an end."""
    return after_exit(
        record.host_config.restart_policy,
        exit_code=exit_code,
        ran_ns=ran_ns,
        failures=failures,
        manually_stopped=record.manually_stopped,
    )


async def _step(what: str, work: Awaitable[None]) -> None:
    try:
        await work
    except (ShoalError, OSError) as error:
        log.error("cleaning up after a run: step failed step=%s error=%s", what, error)
