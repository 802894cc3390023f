"""Removing a container. It is marked first, so that a crash half way is finished at the next start of the daemon."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import msgspec

from api.errors import Conflict, InvalidArgument, NotFound, ShoalError
from base import faultpoint
from worker.engine.containers.kit import Kit
from worker.engine.containers.lifecycle import Lifecycle
from worker.engine.containers.links import parse_link
from worker.engine.containers.rootfs import Rootfs
from worker.engine.containers.shipping import Shipping
from worker.engine.containers.states import Status
from worker.engine.containers.store import Container
from worker.engine.exec.execs import Execs

log = logging.getLogger(__name__)

_HINT = "Stop the container before attempting removal or force remove"


class Remover:
    """DELETE /containers/{id}."""

    def __init__(self, kit: Kit, rootfs: Rootfs, lifecycle: Lifecycle, execs: Execs, shipping: Shipping) -> None:
        self._kit = kit
        self._shipping = shipping
        self._rootfs = rootfs
        self._lifecycle = lifecycle
        self._execs = execs

    async def remove(
        self,
        ref: str,
        *,
        force: bool,
        volumes: bool,
        link: bool,
        answer: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Raises Conflict if it runs and is not forced, or is being removed already.

        `answer` is called when it is gone, before the destroy event: a client that leaves on the event (`docker run
        --rm` does) would else cut off its own request.
        """
        if link:
            await self._unlink(ref)
            if answer is not None:
                await answer()
            return
        container = self._kit.store.get(ref)
        if container.record.status is Status.REMOVING:
            raise Conflict(f"removal of container {container.id} is already in progress")
        if force and container.live:
            await self._force_down(container)
        async with container.lock:
            if self._kit.store.find(container.id) is not container:
                raise NotFound(f"No such container: {ref}")
            self._check_down(container)
            await container.settled.wait()
            await self._remove(container, volumes=volumes)
        if answer is not None:
            await answer()
        self._destroyed(container)

    async def _unlink(self, ref: str) -> None:
        """`container/alias`: take that link out of the container's settings; it counts from the next start on."""
        parent, _, alias = ref.strip("/").rpartition("/")
        if not parent:
            raise InvalidArgument(f"Conflict, cannot remove the default link name of the container: /{alias}")
        container = self._kit.store.get(parent)
        async with container.lock:
            host = container.record.host_config
            rest = [link for link in host.links or [] if parse_link(link)[1] != alias]
            if len(rest) == len(host.links or []):
                raise NotFound(f"No such link: {ref}")
            await self._kit.store.save(container, host_config=msgspec.structs.replace(host, links=rest or None))

    async def _force_down(self, container: Container) -> None:
        try:
            await self._lifecycle.kill(container.id)
        except Conflict:
            if container.live:
                raise

    def _check_down(self, container: Container) -> None:
        status = container.record.status
        if status is Status.PAUSED:
            raise Conflict(
                f"You cannot remove a paused container {container.id}. Unpause and then stop the container before "
                "attempting removal or force remove"
            )
        if status is Status.RESTARTING:
            raise Conflict(f"You cannot remove a restarting container {container.id}. {_HINT}")
        if container.live:
            raise Conflict(f"You cannot remove a running container {container.id}. {_HINT}")

    async def _remove(self, container: Container, *, volumes: bool) -> None:
        await self._kit.store.save(container, status=Status.REMOVING, remove_volumes=volumes)
        try:
            await self._finish(container, volumes=volumes)
        except (ShoalError, OSError):
            await self._kit.store.save(container, status=Status.DEAD)
            raise

    async def finish_interrupted(self, container: Container) -> None:
        """At the daemon's start: a removal that did not come to its end."""
        await self._finish(container, volumes=container.record.remove_volumes)
        self._destroyed(container)

    async def _finish(self, container: Container, *, volumes: bool) -> None:
        """Take away everything of a container that is marked; every step may be taken twice."""
        kit, record = self._kit, container.record
        for future in container.pending:
            if not future.done():
                future.set_exception(NotFound(f"No such container: {record.id}"))
        await kit.runtime.delete(record.id)
        faultpoint.reach("removal.process")
        await self._shipping.finish(record.id)
        await kit.networks.detach(record.id)
        faultpoint.reach("removal.network")
        for mount in record.mounts:
            if mount.type == "volume":
                await kit.volumes.release(mount.name, record.id)
        if volumes:
            await self._remove_volumes(container)
        faultpoint.reach("removal.volumes")
        await self._rootfs.remove(record.id)
        faultpoint.reach("removal.root")
        await kit.images.release(record.image_id, record.id)
        await kit.store.forget(container)
        await self._execs.forget(container)
        container.finish()

    def _destroyed(self, container: Container) -> None:
        self._kit.events.publish("container", "destroy", container.id, container.attributes())

    async def _remove_volumes(self, container: Container) -> None:
        """The anonymous ones; one that another container uses, too, stays."""
        for mount in container.record.mounts:
            if mount.type == "volume" and mount.anonymous:
                try:
                    await self._kit.volumes.remove(mount.name)
                except (Conflict, NotFound) as error:
                    log.info("volume stays volume=%s reason=%s", mount.name, error.message)
