"""Named volumes: records, who uses them, and their storage: directories under <data-root>/volumes for the local driver,
a plugin's for others.

Invariants: the storage exists before the record that names it is answered; a volume with holders is never removed; the
mount of a volume with options is there exactly while somebody has it mounted. A plugin that hangs holds up its own
volumes alone: every volume has its own lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from api.errors import Conflict, Internal, NotFound, ShoalError
from api.types.volume import Volume, VolumeCreate, VolumeList
from base import faultpoint
from base.clock import Clock, SystemClock, rfc3339nano
from base.ids import hex_id
from base.locks import KeyedLocks
from base.offload import Pool
from worker.engine.parts import Events, VolumeView
from worker.engine.records import Delete, Put, Records
from worker.engine.volumes.local import LocalDirectories
from worker.engine.volumes.options import LOCAL, check_name, check_options, mount_plan
from worker.engine.volumes.plugins import Finder, Plugin, Refused
from worker.engine.volumes.records import TABLE, VolumeRecord
from worker.engine.volumes.views import add_known, foreign, matcher

log = logging.getLogger(__name__)


class VolumeStore:
    """Satisfies `parts.Volumes`, and is the backend of the /volumes endpoints."""

    def __init__(
        self,
        records: Records,
        data_root: Path,
        events: Events,
        clock: Clock | None = None,
        plugins: Finder | None = None,
    ) -> None:
        self._records = records
        self._local = LocalDirectories(data_root / "volumes")
        self._events = events
        self._clock = clock or SystemClock()
        self._pool = Pool("volumes", 2)
        self._volumes: dict[str, VolumeRecord] = {}
        self._mounted: dict[str, set[str]] = {}
        self._plugins = plugins or Finder()
        self._active: set[str] = set()
        """Plugins on sockets that answered as volume drivers since this daemon started."""
        self._locks = KeyedLocks()
        """By volume name: one change of a volume at a time."""

    async def start_up(self) -> None:
        """Read the records; finish removals that a crash cut short. Data that no record names is never touched; empty
        directories are, which a creation left."""
        self._volumes = await self._records.all(TABLE, VolumeRecord)
        self._mounted = {name: set(record.mounted) for name, record in self._volumes.items() if record.mounted}
        await self._pool.run(self._local.sweep, set(self._volumes))

    async def close(self) -> None:
        """Leaves mounts as they are: containers run on."""
        await asyncio.to_thread(self._pool.close)

    # --- what containers need ---------------------------------------------------------------------------------

    async def ensure(self, name: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str]) -> VolumeView:
        """See `parts.Volumes.ensure`. Raises Conflict when the volume exists with another driver."""
        anonymous = not name
        name = name or hex_id()
        driver = LOCAL if driver == "default" else driver
        if driver not in ("", LOCAL):
            driver = self._plugins.driver_name(driver)
        async with self._locks.of(name):
            known = self._volumes.get(name)
            if known is not None:
                if driver and driver != known.driver:
                    raise Conflict(
                        f'create {name}: conflict: volume name must be unique: volume "{name}" exists with '
                        f'driver "{known.driver}"'
                    )
                return self._view(known, created=False)
            if driver in ("", LOCAL):
                check_name(name)
                check_options(name, options)
                record = self._new(name, LOCAL, options, labels, anonymous=anonymous)
                return self._view(await self._create_local(record), created=True)
            record = self._new(name, driver, options, labels, anonymous=anonymous)
            return await self._create_by_plugin(record)

    def _new(
        self, name: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str], *, anonymous: bool
    ) -> VolumeRecord:
        return VolumeRecord(
            name=name,
            driver=driver,
            options=dict(options),
            labels=dict(labels),
            created_ns=self._clock.now_ns(),
            anonymous=anonymous,
        )

    async def _create_local(self, record: VolumeRecord) -> VolumeRecord:
        name = record.name
        await self._pool.run(self._local.make, name)
        try:
            await self._records.write(Put(TABLE, name, record))
        except BaseException:
            await self._pool.run(self._local.unmake, name)
            raise
        self._volumes[name] = record
        self._events.publish("volume", "create", name, {"driver": record.driver})
        return record

    async def _create_by_plugin(self, record: VolumeRecord) -> VolumeView:
        """A volume that the plugin has already is taken as it is. One that is made here, with no record of it because
        the daemon went away, is such a one."""
        name, driver = record.name, record.driver
        try:
            plugin = await self._driver(driver)
            known = await plugin.get(name)
            if known is None:
                await plugin.create(name, record.options)
            record = replace(
                record,
                scope=await plugin.scope(),
                mountpoint=(known.mountpoint if known else None) or await plugin.path(name),
            )
        except ShoalError as error:
            raise type(error)(f"create {name}: {error.message}") from None
        await self._save(record)
        self._events.publish("volume", "create", name, {"driver": driver})
        return self._view(record, created=known is None)

    async def _driver(self, name: str) -> Plugin:
        plugin = await self._plugins.driver(name)
        if name not in self._plugins.managed_names():
            self._active.add(name)
        return plugin

    def _view(self, record: VolumeRecord, *, created: bool) -> VolumeView:
        return VolumeView(record.name, record.driver, self._place(record), created)

    def _place(self, record: VolumeRecord) -> Path | None:
        if record.local:
            return self._local.data(record.name)
        return Path(record.mountpoint) if record.mountpoint else None

    async def mount(self, name: str, holder: str) -> Path:
        """See `parts.Volumes.mount`. Raises InvalidArgument when the options' mount fails (with its errno); Internal
        with the plugin's words."""
        async with self._locks.of(name):
            record = self._get(name)
            users = self._mounted.get(name, set())
            if holder not in users:
                record = await self._start_use(record, holder, {*users, holder})
                self._mounted.setdefault(name, set()).add(holder)
                self._events.publish("volume", "mount", name, {"container": holder, "driver": record.driver})
            path = self._place(record)
            if path is None:
                raise Internal(f"volume {name}: plugin {record.driver} does not say where it is mounted")
            return path

    async def _start_use(self, record: VolumeRecord, holder: str, users: set[str]) -> VolumeRecord:
        mounted = tuple(sorted(users))
        if not record.local:
            return await self._start_use_by_plugin(record, holder, mounted)
        plan = mount_plan(record.options)
        if plan is None:
            return record
        await self._pool.run(self._local.mount, record.name, plan)
        return await self._save(replace(record, mounted=mounted))

    async def _start_use_by_plugin(self, record: VolumeRecord, holder: str, mounted: tuple[str, ...]) -> VolumeRecord:
        """The user is written down before the plugin hears of it: what a crash leaves mounted for a container that
        never ran is unmounted by the next daemon."""
        plugin = await self._driver(record.driver)
        begun = await self._save(replace(record, mounted=mounted))
        try:
            path = await plugin.mount(record.name, holder)
            try:
                await self._pool.run(_check_within, path, plugin)
                return (
                    begun if begun.mountpoint == str(path) else await self._save(replace(begun, mountpoint=str(path)))
                )
            except BaseException:
                await plugin.unmount(record.name, holder)
                raise
        except BaseException:
            await self._save(record)
            raise

    async def unmount(self, name: str, holder: str) -> None:
        """See `parts.Volumes.unmount`. Idempotent; the last user takes the options' mount away. A plugin that does not
        answer does not keep the container from ending: it is logged, and the volume is free."""
        async with self._locks.of(name):
            record = self._volumes.get(name)
            if record is None:
                return
            users = self._mounted.get(name, set())
            was_user = holder in users
            users.discard(holder)
            if not users:
                self._mounted.pop(name, None)
            if not record.local:
                if was_user:
                    await self._unmount_by_plugin(record, holder)
                    await self._save(replace(record, mounted=tuple(sorted(users))))
            elif mount_plan(record.options) is not None:
                if not users:
                    await self._pool.run(self._local.unmount, name)
                await self._save(replace(record, mounted=tuple(sorted(users))))
        if was_user:
            self._events.publish("volume", "unmount", name, {"container": holder, "driver": record.driver})

    async def _unmount_by_plugin(self, record: VolumeRecord, holder: str) -> None:
        try:
            await (await self._driver(record.driver)).unmount(record.name, holder)
        except ShoalError as error:
            log.warning("plugin did not unmount volume=%s driver=%s error=%s", record.name, record.driver, error)

    async def hold(self, name: str, holder: str) -> None:
        """See `parts.Volumes.hold`. Idempotent."""
        async with self._locks.of(name):
            record = self._get(name)
            if holder not in record.holders:
                await self._save(replace(record, holders=(*record.holders, holder)))

    async def release(self, name: str, holder: str) -> None:
        """The opposite of `hold`; nothing happens for an unknown volume or holder."""
        async with self._locks.of(name):
            record = self._volumes.get(name)
            if record is not None and holder in record.holders:
                holders = tuple(other for other in record.holders if other != holder)
                await self._save(replace(record, holders=holders))

    async def reconcile(self, holders: Collection[str], users: Collection[str]) -> None:
        """See `parts.Volumes.reconcile`."""
        for record in list(self._volumes.values()):
            for user in record.mounted:
                if user not in users:
                    await self.unmount(record.name, user)
            stale = [holder for holder in record.holders if holder not in holders]
            for holder in stale:
                log.info("volume let go volume=%s holder=%s", record.name, holder[:12])
                await self.release(record.name, holder)
            if stale and record.anonymous and not self._volumes[record.name].holders:
                await self.remove(record.name)

    async def _save(self, record: VolumeRecord) -> VolumeRecord:
        await self._records.write(Put(TABLE, record.name, record))
        self._volumes[record.name] = record
        return record

    # --- what the API needs -----------------------------------------------------------------------------------

    async def create(self, body: VolumeCreate) -> Volume:
        """`POST /volumes/create`; an existing volume of the same name and driver is answered as it is."""
        view = await self.ensure(body.name or "", body.driver or "", body.driver_opts or {}, body.labels or {})
        return await self.inspect(view.name)

    def drivers(self) -> list[str]:
        """`local`, the managed plugins that are enabled, and those on sockets that answered so far (`GET /info`)."""
        return [LOCAL, *sorted({*self._active, *self._plugins.managed_names()})]

    def of_driver(self, driver: str) -> list[str]:
        """The volumes of a driver."""
        return [record.name for record in self._volumes.values() if record.driver == driver]

    async def inspect(self, name: str) -> Volume:
        """One volume, with what its plugin says of it. Raises NotFound."""
        record = self._volumes.get(name)
        if record is None:
            return await self._inspect_foreign(name)
        shown = self._shown(record)
        if not record.local:
            try:
                known = await (await self._driver(record.driver)).get(name)
            except ShoalError as error:
                # Docker's way, too: the volume is still ours to show and to remove.
                log.warning("plugin does not tell of volume=%s driver=%s error=%s", name, record.driver, error)
            else:
                add_known(shown, known)
        return shown

    async def _inspect_foreign(self, name: str) -> Volume:
        """A volume that only a plugin knows."""
        for driver in await self._pool.run(self._plugins.names):
            with contextlib.suppress(ShoalError):
                plugin = await self._driver(driver)
                known = await plugin.get(name)
                if known is not None:
                    return foreign(driver, known)
        raise NotFound(f"get {name}: no such volume")

    def _shown(self, record: VolumeRecord) -> Volume:
        return Volume(
            name=record.name,
            driver=record.driver,
            mountpoint=str(self._place(record) or ""),
            labels=record.labels or None,
            options=record.options or None,
            scope=record.scope,
            created_at=rfc3339nano(record.created_ns),
        )

    async def list(self, filters: Mapping[str, Sequence[str]]) -> VolumeList:
        """The volumes that pass every filter (values of one filter are alternatives), by name: ours, and those that
        only plugins know. A plugin that does not answer is a warning."""
        wanted = matcher(filters)
        found = {name: self._shown(record) for name, record in self._volumes.items() if wanted(record)}
        warnings: list[str] = []
        for driver in await self._pool.run(self._plugins.names):
            try:
                plugin = self._plugins.find(driver)
                if not await plugin.activate():
                    continue
                known = await plugin.list()
            except ShoalError as error:
                warnings.append(error.message)
                continue
            for each in known:
                if each.name not in self._volumes and wanted(VolumeRecord(name=each.name, driver=driver)):
                    found[each.name] = foreign(driver, each)
        return VolumeList(volumes=[found[name] for name in sorted(found)], warnings=warnings)

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Directory and record go. Raises NotFound (but with `force`), Conflict (in use: the ids)."""
        async with self._locks.of(name):
            if force and name not in self._volumes:
                return
            record = self._get(name)
            users = sorted({*record.holders, *self._mounted.get(name, ())})
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            if record.local:
                await self._remove_local(name)
            else:
                await self._remove_by_plugin(record, force=force)
                await self._forget(name)
        self._events.publish("volume", "destroy", name, {"driver": record.driver})

    async def _remove_local(self, name: str) -> None:
        """Data, record: a crash in between leaves both, and one after them nothing that looks like a volume."""
        await self._pool.run(self._local.unmount, name)
        doomed = await self._pool.run(self._local.set_aside, name)
        faultpoint.reach("volume.aside")
        try:
            await self._forget(name)
        except BaseException:
            await self._pool.run(self._local.put_back, name, doomed)
            raise
        await self._pool.run(self._local.erase, doomed)

    async def _forget(self, name: str) -> None:
        await self._records.write(Delete(TABLE, name))
        del self._volumes[name]

    async def _remove_by_plugin(self, record: VolumeRecord, *, force: bool) -> None:
        """`force`: the record may go although the plugin is gone or unwilling."""
        try:
            plugin = await self._driver(record.driver)
            try:
                await plugin.remove(record.name)
            except Refused:
                if await plugin.get(record.name) is not None:
                    raise
        except ShoalError as error:
            if not force:
                raise type(error)(f"remove {record.name}: {error.message}") from None
            log.warning("volume forgotten volume=%s driver=%s error=%s", record.name, record.driver, error)

    def _get(self, name: str) -> VolumeRecord:
        record = self._volumes.get(name)
        if record is None:
            raise NotFound(f"get {name}: no such volume")
        return record


def _check_within(path: Path, plugin: Plugin) -> None:
    """A plugin with a root of its own hands out nothing else of the host, not by a symbolic link either."""
    if plugin.home is not None and not path.resolve().is_relative_to(plugin.home.resolve()):
        raise Internal(f"VolumeDriver.Mount: plugin {plugin.name}: the mountpoint leads out of the plugin's own root")
