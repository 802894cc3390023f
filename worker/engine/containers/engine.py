"""`Containers`: all that can be done with containers, joined from one small class a noun.

What others rely on: every call that changes something is durable when it returns; `list` and `inspect` never wait for
a container that is being started or stopped; `close` leaves containers running, and `start_up` finds them again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from api.types.container import (
    Change,
    ContainerInspect,
    ContainerSummary,
    CreateAnswer,
    CreateBody,
    LogConfig,
    PathStat,
    TopAnswer,
    UpdateBody,
    WarningsAnswer,
)
from api.types.endpoint import EndpointSettings
from api.types.stream import AttachOptions, LogOptions
from base.clock import Clock
from worker.engine.containers.archive import Archiver
from worker.engine.containers.attach import Attacher, AttachSession
from worker.engine.containers.changes import Changes
from worker.engine.containers.create import Creator
from worker.engine.containers.exits import Exits
from worker.engine.containers.export import Exporter
from worker.engine.containers.health import HealthChecks
from worker.engine.containers.inspect import Inspector
from worker.engine.containers.kit import Kit, Layout
from worker.engine.containers.lifecycle import Lifecycle
from worker.engine.containers.listing import Lister
from worker.engine.containers.logs import Logs
from worker.engine.containers.membership import Membership
from worker.engine.containers.remove import Remover
from worker.engine.containers.restore import Restorer
from worker.engine.containers.rootfs import Rootfs
from worker.engine.containers.shipping import Shipping
from worker.engine.containers.sizes import Sizes
from worker.engine.containers.start import Starter
from worker.engine.containers.stats import Stats
from worker.engine.containers.store import Container, ContainerStore
from worker.engine.containers.top import Top
from worker.engine.containers.update import Updater
from worker.engine.events.bus import EventBus
from worker.engine.exec.execs import Execs
from worker.engine.logs.drivers.options import log_config
from worker.engine.parts import Images, Networks, Runtime, Volumes
from worker.engine.records import Records
from worker.engine.runtime.host import Host, read_host


class Containers:
    """`ref` is an id, a name (with or without slash) or a unique id prefix; unknown ones raise NotFound."""

    def __init__(
        self,
        *,
        records: Records,
        runtime: Runtime,
        images: Images,
        networks: Networks,
        volumes: Volumes,
        events: EventBus,
        data_root: Path,
        exec_root: Path,
        clock: Clock,
        host: Host | None = None,
        log_default: LogConfig | None = None,
    ) -> None:
        self._kit = kit = Kit(
            runtime=runtime,
            images=images,
            networks=networks,
            volumes=volumes,
            events=events,
            store=ContainerStore(records),
            layout=Layout(data_root, exec_root),
            clock=clock,
            host=host or read_host(),
            log_default=log_config(log_default or LogConfig()),
        )
        self._rootfs = rootfs = Rootfs(kit.layout, kit.disk)
        sizes = Sizes(kit)
        exits = Exits(kit, rootfs)
        self._shipping = Shipping(kit)
        starter = Starter(kit, rootfs, self._shipping, exits.watch)
        exits.start = starter.start
        self.execs = Execs(kit)
        health = HealthChecks(kit, self.execs)

        def began(container: Container) -> None:
            health.begin(container)
            self._shipping.begin(container)

        exits.began = began
        self._logs = Logs(kit)
        self._creator = Creator(kit, rootfs, starter)
        self._lifecycle = Lifecycle(kit, starter, exits)
        self._remover = Remover(kit, rootfs, self._lifecycle, self.execs, self._shipping)
        self._membership = Membership(kit, starter)
        self._restorer = Restorer(kit, rootfs, starter, exits, self._remover, self._membership, self.execs)
        self._lister = Lister(kit, sizes)
        self._inspector = Inspector(kit, sizes)
        self._attacher = Attacher(kit, self._logs)
        self._top = Top(kit)
        self._stats = Stats(kit)
        self._changes = Changes(kit)
        self._exporter = Exporter(kit, rootfs)
        self._archiver = Archiver(kit, rootfs)
        self._updater = Updater(kit)

    async def start_up(self) -> None:
        """Load the records, adopt what runs, clean what nobody owns, start what its policy wants running."""
        await self._restorer.restore()
        for container in self._kit.store.all():
            self._shipping.begin(container)

    async def close(self) -> None:
        """Stop watching; containers run on."""
        await self._kit.owner.close()
        self._archiver.close()
        await self._rootfs.close()
        self._kit.disk.close()

    # --- one container's life ----------------------------------------------------------------------------------

    async def create(self, name: str | None, body: CreateBody) -> CreateAnswer:
        """Raises NotFound (image, network ...), Conflict (name), InvalidArgument and NotSupported (fields)."""
        return await self._creator.create(name, body)

    async def start(self, ref: str) -> None:
        """Raises NotModified if it runs; what keeps it from starting is raised and kept in its state."""
        await self._lifecycle.start(ref)

    async def stop(self, ref: str, timeout_s: int | None = None) -> None:
        """Raises NotModified if it does not run. None waits 10 s before SIGKILL, a negative time for ever."""
        await self._lifecycle.stop(ref, timeout_s)

    async def restart(self, ref: str, timeout_s: int | None = None) -> None:
        await self._lifecycle.restart(ref, timeout_s)

    async def kill(self, ref: str, signal: str = "") -> None:
        """Default SIGKILL, which is also waited for. Raises Conflict if it does not run."""
        await self._lifecycle.kill(ref, signal)

    async def pause(self, ref: str) -> None:
        await self._lifecycle.pause(ref)

    async def unpause(self, ref: str) -> None:
        await self._lifecycle.unpause(ref)

    async def wait(self, ref: str) -> int:
        """The exit code once it has ended for good; at once if it does not run."""
        return await self._lifecycle.wait(ref)

    async def rename(self, ref: str, name: str) -> None:
        await self._lifecycle.rename(ref, name)

    async def resize(self, ref: str, height: int, width: int) -> None:
        await self._lifecycle.resize(ref, height, width)

    async def update(self, ref: str, body: UpdateBody) -> WarningsAnswer:
        return await self._updater.update(ref, body)

    async def remove(
        self,
        ref: str,
        *,
        force: bool = False,
        volumes: bool = False,
        link: bool = False,
        answer: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Raises Conflict if it runs and is not forced. `volumes` takes its anonymous ones, too. `answer` is called
        when it is gone and before anybody else is told."""
        await self._remover.remove(ref, force=force, volumes=volumes, link=link, answer=answer)

    async def connect_network(self, ref: str, network: str, settings: EndpointSettings | None) -> None:
        """Put it on one more network; at once if it runs."""
        await self._membership.connect(ref, network, settings)

    async def disconnect_network(self, ref: str, network: str, *, force: bool = False) -> None:
        await self._membership.disconnect(ref, network, force=force)

    # --- looking -----------------------------------------------------------------------------------------------

    def get(self, ref: str) -> Container:
        """The live object."""
        return self._kit.store.get(ref)

    def upper(self, ref: str) -> Path:
        """The directory of what it wrote over its image, in overlayfs's form."""
        return self._kit.layout.upper(self._kit.store.get(ref).id)

    async def labelled(self, label: str) -> Sequence[ContainerSummary]:
        """All containers with a label (`name` or `name=value`), running or not."""
        return await self._lister.list(
            all_states=True, limit=0, size=False, filters={"label": [label]}, since="", before=""
        )

    async def inspect(self, ref: str, size: bool = False) -> ContainerInspect:
        return await self._inspector.inspect(ref, size=size)

    async def list(
        self,
        all: bool = False,
        limit: int = 0,
        size: bool = False,
        filters: Mapping[str, Sequence[str]] | None = None,
        *,
        since: str = "",
        before: str = "",
    ) -> list[ContainerSummary]:
        """Newest first. Raises InvalidArgument for filter values that can't be."""
        return await self._lister.list(
            all_states=all, limit=limit, size=size, filters=filters or {}, since=since, before=before
        )

    async def top(self, ref: str, ps_args: str = "") -> TopAnswer:
        return await self._top.top(ref, ps_args)

    async def changes(self, ref: str) -> Sequence[Change]:
        return await self._changes.changes(ref)

    async def stats(self, ref: str, *, stream: bool) -> AsyncIterator[dict[str, Any]]:
        return await self._stats.read(ref, stream=stream)

    async def export(self, ref: str) -> AsyncIterator[bytes]:
        return await self._exporter.export(ref)

    async def archive_stat(self, ref: str, path: str) -> PathStat:
        return await self._archiver.stat(ref, path)

    async def archive_get(self, ref: str, path: str) -> tuple[PathStat, AsyncGenerator[bytes, None]]:
        """What is at `path` and a tar of it; the caller reads the tar to its end or closes it."""
        return await self._archiver.get(ref, path)

    async def archive_put(
        self, ref: str, path: str, body: AsyncIterator[bytes], *, keep_kinds: bool = False, as_user: bool = False
    ) -> None:
        """Raises NotFound, InvalidArgument, Forbidden (read-only)."""
        await self._archiver.put(ref, path, body, keep_kinds=keep_kinds, as_user=as_user)

    def logs(self, ref: str, options: LogOptions) -> AsyncIterator[bytes]:
        """The log as bytes for the wire: frames, or raw with a terminal."""
        return self._logs.open(ref, options)

    async def attach(self, ref: str, options: AttachOptions) -> AttachSession:
        """Registers the client at once; `run` the session on its connection, or `close` it."""
        return await self._attacher.attach(ref, options)
