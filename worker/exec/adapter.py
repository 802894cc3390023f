"""Tasks on the single-host engine: finds, makes, starts, stops and removes the one container of each task."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from msgspec import UNSET

from api.errors import InvalidArgument, NotFound, NotModified
from api.types.auth import decode_auth
from api.types.container import ContainerInspect, ContainerState, ContainerSummary, CreateAnswer, CreateBody
from api.types.dataplane import OverlayChange
from api.types.endpoint import EndpointSettings
from api.types.objects import Task
from base.clock import NS
from worker.engine.parts import Volumes
from worker.exec.body import TASK_ID_LABEL, create_body, named_volumes, places
from worker.exec.images import ImageApi, TaskImages
from worker.exec.step import Observation, Phase

log = logging.getLogger(__name__)

STILL_RUNNING_S = 0.5
"""Pause when the engine says that a container's end has come while it shows it running (a policy restarted it)."""

HEALTH_POLL_S = 0.25
"""How often the health of a container that has a check is looked at."""

_PHASES = {
    "created": Phase.CREATED,
    "running": Phase.RUNNING,
    "paused": Phase.RUNNING,
    "restarting": Phase.RUNNING,
}


class ContainerApi(Protocol):
    """`worker.engine.containers.Containers`, as far as tasks need it."""

    async def create(self, name: str | None, body: CreateBody) -> CreateAnswer: ...

    async def connect_network(self, ref: str, network: str, settings: EndpointSettings | None) -> None: ...

    async def start(self, ref: str) -> None: ...

    async def stop(self, ref: str, timeout_s: int | None) -> None: ...

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None: ...

    async def wait(self, ref: str) -> int: ...

    async def inspect(self, ref: str) -> ContainerInspect: ...

    async def list(self, *, all: bool = False, filters: Mapping[str, Sequence[str]]) -> Sequence[ContainerSummary]: ...


class NetworkApi(Protocol):
    """`worker.engine.networks.NetworkController`, as far as tasks need it."""

    async def apply(self, change: OverlayChange) -> bool: ...


class EngineAdapter:
    """Satisfies `worker.exec.controller.TaskEngine`."""

    def __init__(self, containers: ContainerApi, images: ImageApi, volumes: Volumes, networks: NetworkApi) -> None:
        self._containers = containers
        self._images = TaskImages(images)
        self._volumes = volumes
        self._networks = networks
        self._ids: dict[str, str] = {}
        """Task -> container, learnt; the label on the container is the truth."""
        self._looked = False
        """The containers from before our time are among them."""
        self._unsure: set[str] = set()
        """Tasks whose container may have been made without our hearing of it: the engine failed, or we were told to
        stop. The others' are known, so nobody has to search through all containers for each new task."""

    async def apply_networks(self, change: OverlayChange) -> bool:
        return await self._networks.apply(change)

    async def observe(self, task: Task) -> Observation:
        """By the known id, else by label: also a container from before a crash is found."""
        known = self._ids.get(task.id)
        if known is not None:
            with contextlib.suppress(NotFound):
                return _observation(await self._containers.inspect(known))
            self._ids.pop(task.id, None)
        if not self._looked or task.id in self._unsure:
            await self._look()
            self._unsure.discard(task.id)
            if task.id in self._ids:
                with contextlib.suppress(NotFound):
                    return _observation(await self._containers.inspect(self._ids[task.id]))
        return Observation(Phase.ABSENT)

    async def _look(self) -> None:
        """Learn the container of every task."""
        for summary in await self._containers.list(all=True, filters={"label": [TASK_ID_LABEL]}):
            self._ids[summary.labels[TASK_ID_LABEL]] = summary.id
        self._looked = True

    async def prepare(self, task: Task) -> None:
        """Make sure of the image and the volumes, create the container under the task's name."""
        body = create_body(task)
        await _require_bind_sources(task)
        await self._images.ensure(body.image, decode_auth(task.registry_auth))
        self._unsure.add(task.id)
        async with self._volumes_of(task):
            answer = await self._containers.create(task.name, body)
            try:
                for network_id, settings in list(places(task).items())[1:]:
                    await self._containers.connect_network(answer.id, network_id, settings)
            except BaseException:
                await self._containers.remove(answer.id, force=True, volumes=True)
                raise
        self._ids[task.id] = answer.id
        self._unsure.discard(task.id)

    async def start(self, container_id: str) -> None:
        with contextlib.suppress(NotModified):
            await self._containers.start(container_id)

    async def wait(self, container_id: str) -> None:
        with contextlib.suppress(NotFound):
            health = _health((await self._containers.inspect(container_id)).state)
            if health:
                await self._wait_for_change(container_id, health)
                return
            await self._containers.wait(container_id)
            if (await self._containers.inspect(container_id)).state.running:
                await asyncio.sleep(STILL_RUNNING_S)

    async def _wait_for_change(self, container_id: str, health: str) -> None:
        """Until the container has ended or its health is another."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_POLL_S):
                    await self._containers.wait(container_id)
            state = (await self._containers.inspect(container_id)).state
            if not state.running or _health(state) != health:
                return

    async def stop(self, container_id: str, grace_ns: int) -> None:
        with contextlib.suppress(NotFound, NotModified):
            await self._containers.stop(container_id, -(-grace_ns // NS))

    async def remove(self, container_id: str) -> None:
        with contextlib.suppress(NotFound):
            await self._containers.remove(container_id, force=True, volumes=True)
        self._ids = {task_id: known for task_id, known in self._ids.items() if known != container_id}

    @contextlib.asynccontextmanager
    async def _volumes_of(self, task: Task) -> AsyncIterator[None]:
        """Volumes with a driver or labels of their own; those made here go again if the container can't be made."""
        async with contextlib.AsyncExitStack() as undo:
            for mount in named_volumes(task):
                options = mount.volume_options
                assert options is not None
                driver = options.driver_config
                name, extra = (driver.name or "local", driver.options) if driver is not None else ("local", {})
                view = await self._volumes.ensure(mount.source, name, extra, options.labels)
                if view.created:
                    undo.push_async_callback(self._volumes.remove, view.name)
            yield
            undo.pop_all()


async def _require_bind_sources(task: Task) -> None:
    """A container's `-v` makes a directory that is not there; a service must not, on whatever node it lands.

    Raises InvalidArgument naming path and host.
    """
    for mount in task.spec.container_spec.mounts:
        if mount.type == "bind" and not await asyncio.to_thread(os.path.lexists, mount.source):
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {mount.source} '
                f"(on {socket.gethostname()})"
            )


def _health(state: ContainerState) -> str:
    return "" if state.health is UNSET else state.health.status


def _observation(container: ContainerInspect) -> Observation:
    state: ContainerState = container.state
    phase = _PHASES.get(state.status, Phase.EXITED)
    error = state.error or ("out of memory" if state.oom_killed else "")
    return Observation(
        phase=phase,
        container_id=container.id,
        pid=state.pid if phase is Phase.RUNNING else 0,
        exit_code=state.exit_code,
        health=_health(state) if phase is Phase.RUNNING else "",
        error=error if phase is Phase.EXITED else "",
    )
