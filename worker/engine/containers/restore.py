"""After the daemon was away: what runs is adopted, what ended is written down, what nobody owns is removed.

Order: records are the truth of what shall exist; the runtime and the network are brought to it; only then do restart
policies start anything.
"""

from __future__ import annotations

import asyncio
import logging
import os

from api.errors import ShoalError
from worker.engine.containers.exits import Exits
from worker.engine.containers.kit import Kit
from worker.engine.containers.membership import Membership
from worker.engine.containers.plan import process_io
from worker.engine.containers.remove import Remover
from worker.engine.containers.restart import at_daemon_start
from worker.engine.containers.rootfs import Rootfs
from worker.engine.containers.start import Starter
from worker.engine.containers.states import WITH_PROCESS, Status
from worker.engine.containers.store import Container
from worker.engine.exec.execs import Execs
from worker.engine.parts import Exit, Process

log = logging.getLogger(__name__)

LOST_EXIT_CODE = 255
STARTS_AT_ONCE = 4


class Restorer:
    def __init__(
        self,
        kit: Kit,
        rootfs: Rootfs,
        starter: Starter,
        exits: Exits,
        remover: Remover,
        membership: Membership,
        execs: Execs,
    ) -> None:
        self._kit = kit
        self._execs = execs
        self._rootfs = rootfs
        self._starter = starter
        self._exits = exits
        self._remover = remover
        self._membership = membership

    async def restore(self) -> None:
        """Everything; restart policies go on in the background."""
        kit = self._kit
        kit.layout.containers.mkdir(parents=True, exist_ok=True, mode=0o710)
        kit.layout.bundles.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._rootfs.start_up()
        await kit.store.load()
        await self._execs.restore()
        adopted = [(container, await self._adopt(container)) for container in kit.store.all() if container.running]
        alive = [container for container, process in adopted if process is not None]
        await self._sweep_runtime({container.id for container in alive})
        await kit.networks.reconcile([container.id for container in alive])
        await self._sweep_disk()
        await self._let_go()
        for container, process in adopted:
            await self._take_up(container, process)
        for container in kit.store.all():
            if container.record.status in (Status.REMOVING, Status.DEAD):
                await self._finish_removal(container)
        self._apply_policies()

    async def _adopt(self, container: Container) -> Process | None:
        record, layout = container.record, self._kit.layout
        try:
            return await self._kit.runtime.adopt(record.id, process_io(record, layout), layout.exit_file(record.id))
        except (ShoalError, OSError) as error:
            log.error("container can't be adopted container=%s error=%s", record.id[:12], error)
            return None

    async def _take_up(self, container: Container, process: Process | None) -> None:
        container.begin_run()
        self._rootfs.keep(container.id)
        if process is not None:
            container.process = process
            await self._membership.take_up(container)
            self._exits.watch(container, process)
            return
        log.warning("container is gone without a trace container=%s", container.id[:12])
        lost = Exit(LOST_EXIT_CODE, self._kit.clock.now_ns(), error="the container ended while the daemon was away")
        await self._exits.ended(container, lost)

    async def _sweep_runtime(self, alive: set[str]) -> None:
        """Half-created containers, and remains of runs whose end is written down."""
        for container_id in await self._kit.runtime.known():
            if container_id not in alive:
                try:
                    await self._kit.runtime.delete(container_id)
                except (ShoalError, OSError) as error:
                    log.error("remains of a container stay container=%s error=%s", container_id[:12], error)

    async def _sweep_disk(self) -> None:
        """Directories without a record: a create or a removal that a crash cut short. Mounts of what does not run."""
        kit = self._kit
        for name in await kit.disk.run(os.listdir, kit.layout.containers):
            container = kit.store.find(name)
            if container is None:
                log.info("removing what a crash left container=%s", name[:12])
                await self._rootfs.remove(name)
            elif container.record.status not in WITH_PROCESS:
                await self._rootfs.unmount(container.id)

    async def _let_go(self) -> None:
        """Images and volumes held for containers that a crash kept from being."""
        everyone = {container.id for container in self._kit.store.all()}
        users = {container.id for container in self._kit.store.all() if container.record.status in WITH_PROCESS}
        try:
            await self._kit.volumes.reconcile(everyone, users)
            await self._kit.images.reconcile(everyone)
        except (ShoalError, OSError) as error:
            log.error("what a crash left held stays held error=%s", error)

    async def _finish_removal(self, container: Container) -> None:
        try:
            await self._remover.finish_interrupted(container)
        except (ShoalError, OSError) as error:
            log.error("removal can't be finished container=%s error=%s", container.id[:12], error)
            await self._kit.store.save(container, status=Status.DEAD)

    def _apply_policies(self) -> None:
        gate = asyncio.Semaphore(STARTS_AT_ONCE)
        for container in reversed(self._kit.store.all()):
            record = container.record
            if record.status is Status.RESTARTING:
                container.begin_run()
                self._exits.restart_later(container, 0.0)
            elif record.status is Status.EXITED and at_daemon_start(
                record.host_config.restart_policy,
                exit_code=record.exit_code,
                failures=record.failures,
                manually_stopped=record.manually_stopped,
                ever_started=record.started_ns != 0,
            ):
                self._kit.owner.spawn(self._start(container, gate), name=f"start {record.id[:12]}")

    async def _start(self, container: Container, gate: asyncio.Semaphore) -> None:
        async with gate, container.lock:
            if container.record.status is not Status.EXITED:
                return
            try:
                await self._starter.start(container)
            except ShoalError as error:
                log.warning("container can't be started container=%s error=%s", container.id[:12], error.message)
