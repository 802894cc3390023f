"""Plugins of this host: installed, enabled, found by who needs them, disabled, removed (v1.24 section 3.6).

Invariants: a plugin's record says what shall be, and is durable before it is answered; after any crash `start_up`
makes it so: what is enabled runs (the process of before is taken up), what is not does not, and of what no record
names nothing is left. Changes of one plugin take turns.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from api.errors import Conflict, Internal, InvalidArgument, NotFound, ShoalError
from api.types.auth import AuthConfig
from api.types.plugin import PluginInfo, PluginPrivilege
from base.clock import Clock
from base.ids import hex_id
from base.locks import KeyedLocks
from base.offload import Pool
from base.supervise import TaskOwner
from worker.engine.images import names
from worker.engine.images.names import Reference
from worker.engine.images.progress import Message, Report, drive
from worker.engine.images.registry import RegistryConfig
from worker.engine.parts import Events
from worker.engine.plugins import roots, settings
from worker.engine.plugins.artifacts import Artifacts
from worker.engine.plugins.config import VOLUME_DRIVER, PluginConfig, check_supported
from worker.engine.plugins.instance import Instance
from worker.engine.plugins.plan import SHORT, Place
from worker.engine.plugins.privileges import privileges
from worker.engine.plugins.records import TABLE, PluginRecord
from worker.engine.plugins.runner import Runner
from worker.engine.plugins.views import shown
from worker.engine.records import Delete, Put, Records
from worker.engine.volumes.plugins import Address, Plugin

log = logging.getLogger(__name__)
T = TypeVar("T")

DISK_THREADS = 2
ID_CHARACTERS_MIN = 4
"""Of the beginning of an id; drivers are found by name alone."""
RESTORE_S = 15.0
"""How long a start of the daemon waits for its plugins."""
READY_S = 10.0
"""How long who needs a plugin waits while it is started again."""


class Plugins:
    """The backend of the /plugins endpoints, and `worker.engine.volumes.plugins.Managed`."""

    def __init__(
        self, data_root: Path, exec_root: Path, registries: RegistryConfig, events: Events, clock: Clock, binary: str
    ) -> None:
        self._installed = data_root / "plugins/installed"
        self._sockets = exec_root / "plugins"
        self._records = Records(data_root / "plugins/plugins.db")
        self._artifacts = Artifacts(self._records, data_root / "plugins", registries, clock)
        self._events = events
        self._clock = clock
        self._disk = Pool("plugins", DISK_THREADS)
        self._runner = Runner(exec_root / "p", binary, self._disk, clock)
        self._owner = TaskOwner("plugins")
        self._plugins: dict[str, PluginRecord] = {}
        """By full name."""
        self._configs: dict[str, PluginConfig] = {}
        """By full name."""
        self._instances: dict[str, Instance] = {}
        """Those that run, by full name."""
        self._locks = KeyedLocks()
        """By full name."""
        self.used_by: Callable[[str], Sequence[str]] = lambda _driver: ()
        """The volumes of a driver; joined by the daemon."""

    # --- life -------------------------------------------------------------------------------------------------------

    async def start_up(self) -> None:
        """Read the records and make them true. Returns when what is enabled runs or has failed once, or after a while:
        a plugin that hangs does not keep the engine from its other work."""
        await self._records.open()
        await self._artifacts.start_up()
        for record in (await self._records.all(TABLE, PluginRecord)).values():
            self._plugins[record.full_name] = record
            try:
                self._configs[record.full_name] = await self._artifacts.config(record.artifact)
            except (ShoalError, OSError) as error:
                log.error("plugin is damaged: remove it plugin=%s error=%s", record.full_name, error)
                self._configs[record.full_name] = PluginConfig()
        await self._sweep()
        enabled = [record for record in self._plugins.values() if record.enabled]
        restores = [self._owner.spawn(self._restore(record), name=f"restore {record.full_name}") for record in enabled]
        if restores:
            await asyncio.wait(restores, timeout=RESTORE_S)

    async def _restore(self, record: PluginRecord) -> None:
        async with self._locks.of(record.full_name):
            try:
                instance = await self._instance(record)
            except ShoalError as error:
                log.error("plugin can't run plugin=%s error=%s", record.full_name, error)
                return
            self._instances[record.full_name] = instance
            await instance.adopt()

    async def _sweep(self) -> None:
        """What a crash left: processes of plugins that shall not run, directories and artifacts that nobody needs."""
        enabled = {record.id for record in self._plugins.values() if record.enabled}
        if await self._disk.run(self._runner.has_left):
            runtime = await self._runner.runtime()
            for left in await runtime.known():
                if left not in enabled:
                    log.info("ending a plugin that shall not run id=%s", left[:SHORT])
                    await runtime.delete(left)
        known = {record.id: record for record in self._plugins.values()}
        for name in await self._disk.run(_entries, self._installed):
            record = known.get(name)
            if record is None:
                await self._disk.run(roots.remove, self._place(name))
            elif not record.enabled:
                await self._disk.run(roots.take_down, self._place(name))
        await self._collect()

    async def close(self) -> None:
        """Let go; plugins run on."""
        for instance in self._instances.values():
            await instance.leave()
        await self._owner.close()
        await self._runner.close()
        await self._artifacts.close()
        await self._records.close()
        await asyncio.to_thread(self._disk.close)

    # --- reading ----------------------------------------------------------------------------------------------------

    def list(self) -> Sequence[PluginInfo]:
        """All that are installed, by name."""
        return [shown(self._plugins[name], self._configs[name]) for name in sorted(self._plugins)]

    def inspect(self, name: str) -> PluginInfo:
        """By name, name:tag, id or a unique beginning of it. Raises NotFound."""
        record = self._get(name)
        return shown(record, self._configs[record.full_name])

    def _get(self, text: str) -> PluginRecord:
        found = self._named(text)
        if found is None and len(text) >= ID_CHARACTERS_MIN:
            matches = [record for record in self._plugins.values() if record.id.startswith(text)]
            found = matches[0] if len(matches) == 1 else None
        if found is None:
            raise NotFound(f'plugin "{text}" not found')
        return found

    def _named(self, text: str) -> PluginRecord | None:
        try:
            return self._plugins.get(_full_name(names.parse(text)))
        except InvalidArgument:
            return None

    # --- installing -------------------------------------------------------------------------------------------------

    async def pull(self, name: str, auth: AuthConfig | None) -> Sequence[PluginPrivilege]:
        """Install a plugin from its registry; it is disabled. Returns what it asks of the host.

        Raises: Internal for what can't be a name and for a plugin that exists (v1.24 has 500 for both), else as
        `Puller.pull`. Nothing is left then.
        """
        reference = _parse(name)
        async with self._locks.of(_full_name(reference)):
            if _full_name(reference) in self._plugins:
                raise Internal(f"plugin {_full_name(reference)} already exists")
            try:
                with self._artifacts.arrival():
                    artifact = await self._artifacts.pull(reference.tagged(), auth)
                    record = await self._settled(self._install(reference, artifact))
            finally:
                await self._collect()
        self._events.publish("plugin", "pull", record.full_name, {"name": record.full_name})
        return privileges(self._configs[record.full_name])

    async def create(self, name: str, body: AsyncIterator[bytes]) -> None:
        """Make a plugin of an archive with `config.json` and `rootfs/`; it is disabled. Raises Conflict when it
        exists, InvalidArgument."""
        reference = _parse(name)
        if reference.digest:
            raise InvalidArgument("a plugin can't be created with a digest for its name")
        async with self._locks.of(_full_name(reference)):
            if _full_name(reference) in self._plugins:
                raise Conflict(f"plugin {_full_name(reference)} already exists")
            try:
                with self._artifacts.arrival():
                    artifact = await self._artifacts.make(body)
                    record = await self._settled(self._install(reference, artifact))
            finally:
                await self._collect()
        self._publish("create", record)

    async def _install(self, reference: Reference, artifact: str) -> PluginRecord:
        config = await self._artifacts.config(artifact)
        tag = reference.tag or names.DEFAULT_TAG
        record = PluginRecord(id=hex_id(), name=reference.familiar_name, tag=tag, artifact=artifact)
        await self._records.write(Put(TABLE, record.id, record))
        self._plugins[record.full_name], self._configs[record.full_name] = record, config
        return record

    async def _settled(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it to its end, even when the client leaves meanwhile: the record and our view of it stay the same."""
        task = self._owner.spawn(work, name="install")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    async def _collect(self) -> None:
        await self._artifacts.collect({record.artifact for record in self._plugins.values()})

    async def push(self, name: str, auth: AuthConfig | None, report: Report) -> None:
        """Bring a plugin to its registry. Raises NotFound, and as `Pusher.push`."""
        record = self._get(name)
        with self._artifacts.arrival():
            await self._artifacts.push(names.parse(record.full_name), record.artifact, auth, report)
        await self._collect()
        self._publish("push", record)

    async def drive(self, work: Callable[[Report], Awaitable[T]], send: Callable[[Message], Awaitable[None]]) -> T:
        """See `progress.drive`."""
        return await drive(work, send)

    async def set(self, name: str, wishes: Sequence[str]) -> None:
        """Change how a disabled plugin is set up. Raises NotFound, Conflict (it is enabled), InvalidArgument."""
        async with self._locks.of(self._get(name).full_name):
            record = self._get(name)
            if record.enabled:
                raise Conflict(f"cannot set on an active plugin, disable plugin {record.full_name} before setting")
            overrides = settings.changed(self._configs[record.full_name], record.overrides, wishes)
            await self._save(replace(record, overrides=overrides))

    # --- enabling ---------------------------------------------------------------------------------------------------

    async def enable(self, name: str) -> None:
        """Start it; it runs until it is disabled. Raises NotFound, NotSupported (an interface, a network), Internal
        when it already is or does not start (v1.24 has 500 for that); nothing runs then."""
        async with self._locks.of(self._get(name).full_name):
            record = self._get(name)
            if record.enabled:
                raise Internal(f"plugin already enabled: plugin {record.full_name} is enabled")
            check_supported(record.full_name, self._configs[record.full_name])
            instance = await self._instance(record)
            try:
                await instance.begin()
            except (ShoalError, OSError) as error:
                raise Internal(f"plugin {record.full_name} can't be started: {error}") from error
            try:
                await self._save(replace(record, enabled=True))
            except BaseException:
                await asyncio.shield(instance.end())
                raise
            self._instances[record.full_name] = instance
        self._publish("enable", record)

    async def disable(self, name: str, *, force: bool = False) -> None:
        """Stop it. Raises NotFound, Internal when it already is (v1.24 has 500 for that), Conflict while volumes use
        it, unless `force`."""
        async with self._locks.of(self._get(name).full_name):
            record = self._get(name)
            if not record.enabled:
                raise Internal(f"plugin is already disabled: plugin {record.full_name} found but disabled")
            self._check_unused(record, force=force)
            await self._disable(record)
        self._publish("disable", record)

    async def _disable(self, record: PluginRecord) -> None:
        await self._save(replace(record, enabled=False))
        instance = self._instances.pop(record.full_name, None)
        if instance is not None:  # there is none of a damaged plugin
            await instance.end()

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Everything of it goes. Raises NotFound, Internal while it is enabled (v1.24 has 500 for that), Conflict
        while volumes use it; `force` does both away."""
        async with self._locks.of(self._get(name).full_name):
            record = self._get(name)
            if record.enabled and not force:
                raise Internal(f"plugin {record.full_name} is enabled: disable it first")
            self._check_unused(record, force=force)
            if record.enabled:
                await self._disable(record)
            await self._records.write(Delete(TABLE, record.id))
            del self._plugins[record.full_name], self._configs[record.full_name]
            await self._disk.run(roots.remove, self._place(record.id))
            await self._collect()
        self._publish("remove", record)

    def _check_unused(self, record: PluginRecord, *, force: bool) -> None:
        users = self.used_by(record.full_name)
        if users and not force:
            raise Conflict(f"plugin {record.full_name} is in use by volumes - [{', '.join(sorted(users))}]")

    async def _instance(self, record: PluginRecord) -> Instance:
        layers = await self._artifacts.layers(record.artifact)
        return Instance(
            record,
            self._configs[record.full_name],
            self._place(record.id),
            layers,
            self._runner,
            self._disk,
            self._owner,
            self._clock,
        )

    async def _save(self, record: PluginRecord) -> None:
        await self._records.write(Put(TABLE, record.id, record))
        self._plugins[record.full_name] = record

    def _place(self, plugin_id: str) -> Place:
        return Place(self._installed / plugin_id, self._sockets / plugin_id[:SHORT])

    def _publish(self, action: str, record: PluginRecord) -> None:
        self._events.publish("plugin", action, record.id, {"name": record.full_name})

    # --- volume drivers (worker.engine.volumes.plugins.Managed) -----------------------------------------------------

    def volume_drivers(self) -> Sequence[str]:
        """The full names of those that are enabled."""
        return sorted(name for name in self._instances if VOLUME_DRIVER in self._configs[name].interface.types)

    def driver_name(self, text: str) -> str:
        """The full name of the plugin that `text` names; `text` itself when there is none."""
        record = self._named(text)
        return record.full_name if record is not None else text

    def find(self, text: str) -> Plugin | None:
        """How to speak with the volume driver of this name; None when no such plugin is installed. Raises NotFound
        when it is disabled."""
        record = self._named(text)
        if record is None:
            return None
        instance, config = self._instances.get(record.full_name), self._configs[record.full_name]
        if instance is None:
            raise NotFound(f"error looking up volume plugin {text}: plugin {record.full_name} is disabled")
        if VOLUME_DRIVER not in config.interface.types:
            raise NotFound(f'error looking up volume plugin {text}: plugin "{text}" does not implement VolumeDriver')
        place = self._place(record.id)
        return Plugin(
            record.full_name,
            Address(socket=instance.socket),
            home=place.home,
            on_host=lambda path: place.on_host(path, config.propagated_mount),
            handshake=False,
        )

    async def ready(self, text: str) -> None:
        """Wait a while for a plugin that is being started again."""
        instance = self._instances.get(self.driver_name(text))
        if instance is not None and not instance.failed:
            try:
                async with asyncio.timeout(READY_S):
                    await instance.ready.wait()
            except TimeoutError:
                pass  # whoever asks it something hears that nobody answers


def _parse(name: str) -> Reference:
    """Raises Internal: the document has no other status for it."""
    if not name:
        raise Internal("error parsing reference: repository name must have at least one component")
    try:
        return names.parse(name)
    except InvalidArgument as error:
        raise Internal(f'error parsing reference: "{name}" is not a valid repository/tag: {error.message}') from None


def _full_name(reference: Reference) -> str:
    return f"{reference.familiar_name}:{reference.tag or names.DEFAULT_TAG}"


def _entries(directory: Path) -> Sequence[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
