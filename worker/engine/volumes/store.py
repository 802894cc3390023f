"""Named volumes: records, who uses them, and their storage: directories under <data-root>/volumes for the local driver,
a plugin's for others.

Invariants: the storage exists before the record that names it is answered; a volume with holders is never removed; the
mount of a volume with options is there exactly while somebody has it mounted. A plugin that hangs holds up its own
volumes alone: every volume has its own lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from api.errors import Conflict, Internal, InvalidArgument, NotFound, ShoalError
from api.types.base import Record
from api.types.volume import Volume, VolumeCreate, VolumeList
from base.clock import Clock, SystemClock, rfc3339nano
from base.ids import hex_id
from base.offload import Pool
from worker.engine.parts import Events, VolumeView
from worker.engine.records import Delete, Put, Records
from worker.engine.volumes.options import LOCAL, MountPlan, check_name, check_options, mount_plan
from worker.engine.volumes.plugins import Finder, Known, Plugin, Refused

log = logging.getLogger(__name__)

TABLE = "volumes"
FILTERS = ("name", "dangling", "driver", "label")
_MNT_DETACH = 2
_DOOMED = ".removing-"
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


class VolumeRecord(Record, kw_only=True, frozen=True):
    name: str
    driver: str = LOCAL
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    created_ns: int = 0
    holders: tuple[str, ...] = ()
    """Containers that refer to it, running or not."""
    anonymous: bool = False
    mounted: tuple[str, ...] = ()
    """Containers that use the mount its options or its plugin made: kept, so that a new daemon does not take it from
    them."""
    scope: str = "local"
    mountpoint: str = ""
    """Where the plugin says it is; empty for the local driver, whose volumes have a fixed place."""

    @property
    def local(self) -> bool:
        return self.driver == LOCAL


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
        self._root = data_root / "volumes"
        self._events = events
        self._clock = clock or SystemClock()
        self._pool = Pool("volumes", 2)
        self._volumes: dict[str, VolumeRecord] = {}
        self._mounted: dict[str, set[str]] = {}
        self._plugins = plugins or Finder()
        self._active: set[str] = set()
        """Plugins that answered as volume drivers since this daemon started."""
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    async def start_up(self) -> None:
        """Read the records; finish removals that a crash cut short. Data that no record names is never touched; empty
        directories are, which a creation left."""
        self._volumes = await self._records.all(TABLE, VolumeRecord)
        self._mounted = {name: set(record.mounted) for name, record in self._volumes.items() if record.mounted}
        await self._pool.run(self._sweep)

    def _sweep(self) -> None:
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        for entry in self._root.iterdir():
            if entry.name.startswith(_DOOMED):
                try:
                    # Whatever is mounted there is somebody else's data: never walk into it.
                    self._unmount(entry / "_data")
                    shutil.rmtree(entry)
                except (Internal, OSError) as error:
                    log.warning("removal of a volume is left for later directory=%s error=%s", entry.name, error)
                else:
                    log.info("removal of a volume finished directory=%s", entry.name)
            elif entry.name not in self._volumes:
                self._unmake_directory(entry.name)

    async def close(self) -> None:
        """Leaves mounts as they are: containers run on."""
        await asyncio.to_thread(self._pool.close)

    @contextlib.asynccontextmanager
    async def _locked(self, name: str) -> AsyncIterator[None]:
        """One change of a volume at a time."""
        lock, users = self._locks.get(name) or (asyncio.Lock(), 0)
        self._locks[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[name]
            if users == 1:
                del self._locks[name]
            else:
                self._locks[name] = (lock, users - 1)

    # --- what containers need ---------------------------------------------------------------------------------

    async def ensure(self, name: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str]) -> VolumeView:
        """See `parts.Volumes.ensure`. Raises Conflict when the volume exists with another driver."""
        anonymous = not name
        name = name or hex_id()
        driver = LOCAL if driver == "default" else driver
        async with self._locked(name):
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
        await self._pool.run(self._make_directory, name)
        try:
            await self._records.write(Put(TABLE, name, record))
        except BaseException:
            await self._pool.run(self._unmake_directory, name)
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
        self._active.add(name)
        return plugin

    def _make_directory(self, name: str) -> None:
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        top = self._root / name
        top.mkdir(mode=0o711, exist_ok=True)
        (top / "_data").mkdir(mode=0o755, exist_ok=True)
        (top / "_data").chmod(0o755)

    def _unmake_directory(self, name: str) -> None:
        """Only if empty: data that was there before is not ours to drop."""
        with contextlib.suppress(OSError):
            (self._root / name / "_data").rmdir()
            (self._root / name).rmdir()

    def _view(self, record: VolumeRecord, *, created: bool) -> VolumeView:
        return VolumeView(record.name, record.driver, self._place(record), created)

    def _place(self, record: VolumeRecord) -> Path | None:
        if record.local:
            return self._data(record.name)
        return Path(record.mountpoint) if record.mountpoint else None

    def _data(self, name: str) -> Path:
        return self._root / name / "_data"

    async def mount(self, name: str, holder: str) -> Path:
        """See `parts.Volumes.mount`. Raises InvalidArgument when the options' mount fails (with its errno); Internal
        with the plugin's words."""
        async with self._locked(name):
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
            plugin = await self._driver(record.driver)
            path = await plugin.mount(record.name, holder)
            try:
                return await self._save(replace(record, mounted=mounted, mountpoint=str(path)))
            except BaseException:
                await plugin.unmount(record.name, holder)
                raise
        plan = mount_plan(record.options)
        if plan is None:
            return record
        await self._pool.run(self._mount, self._data(record.name), plan)
        return await self._save(replace(record, mounted=mounted))

    def _mount(self, target: Path, plan: MountPlan) -> None:
        if _is_mounted(target):  # left by a daemon that went away while the container ran on
            return
        arguments = [os.fsencode(plan.source), os.fsencode(target), plan.kind.encode()]
        if _libc.mount(*arguments, plan.flags, plan.data.encode() or None) != 0:
            errno = ctypes.get_errno()
            raise InvalidArgument(
                f"error while mounting volume '{target}': failed to mount local volume: mount {plan.source}:{target}, "
                f"flags: {hex(plan.flags)}{f', data: {plan.data}' if plan.data else ''}: {os.strerror(errno).lower()}"
            )

    async def unmount(self, name: str, holder: str) -> None:
        """See `parts.Volumes.unmount`. Idempotent; the last user takes the options' mount away. A plugin that does not
        answer does not keep the container from ending: it is logged, and the volume is free."""
        async with self._locked(name):
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
                    await self._pool.run(self._unmount, self._data(name))
                await self._save(replace(record, mounted=tuple(sorted(users))))
        if was_user:
            self._events.publish("volume", "unmount", name, {"container": holder, "driver": record.driver})

    async def _unmount_by_plugin(self, record: VolumeRecord, holder: str) -> None:
        try:
            await (await self._driver(record.driver)).unmount(record.name, holder)
        except ShoalError as error:
            log.warning("plugin did not unmount volume=%s driver=%s error=%s", record.name, record.driver, error)

    def _unmount(self, target: Path) -> None:
        while _is_mounted(target):
            if _libc.umount2(os.fsencode(target), _MNT_DETACH) != 0:
                errno = ctypes.get_errno()
                raise Internal(f"unmount {target}: {os.strerror(errno).lower()}")

    async def hold(self, name: str, holder: str) -> None:
        """See `parts.Volumes.hold`. Idempotent."""
        async with self._locked(name):
            record = self._get(name)
            if holder not in record.holders:
                await self._save(replace(record, holders=(*record.holders, holder)))

    async def release(self, name: str, holder: str) -> None:
        """The opposite of `hold`; nothing happens for an unknown volume or holder."""
        async with self._locked(name):
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
        """`local` and the plugins that answered so far (`GET /info`)."""
        return [LOCAL, *sorted(self._active)]

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
                _add_known(shown, known)
        return shown

    async def _inspect_foreign(self, name: str) -> Volume:
        """A volume that only a plugin knows."""
        for driver in await self._pool.run(self._plugins.names):
            with contextlib.suppress(ShoalError):
                plugin = await self._driver(driver)
                known = await plugin.get(name)
                if known is not None:
                    return _foreign(driver, known)
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
                    found[each.name] = _foreign(driver, each)
        return VolumeList(volumes=[found[name] for name in sorted(found)], warnings=warnings)

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Directory and record go. Raises NotFound (but with `force`), Conflict (in use: the ids)."""
        async with self._locked(name):
            if force and name not in self._volumes:
                return
            record = self._get(name)
            users = sorted({*record.holders, *self._mounted.get(name, ())})
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            if record.local:
                await self._pool.run(self._unmount, self._data(name))
            else:
                await self._remove_by_plugin(record, force=force)
            await self._records.write(Delete(TABLE, name))
            del self._volumes[name]
            if record.local:
                await self._pool.run(self._erase, name)
        self._events.publish("volume", "destroy", name, {"driver": record.driver})

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

    def _erase(self, name: str) -> None:
        """First out of the way under a name no volume can have: a crash can't bring half of the data back."""
        if _is_mounted(self._root / name / "_data"):
            raise Internal(f"remove {name}: something is still mounted on the volume")
        doomed = self._root / f"{_DOOMED}{hex_id()}"
        (self._root / name).rename(doomed)
        shutil.rmtree(doomed)

    def _get(self, name: str) -> VolumeRecord:
        record = self._volumes.get(name)
        if record is None:
            raise NotFound(f"get {name}: no such volume")
        return record


def _foreign(driver: str, known: Known) -> Volume:
    volume = Volume(name=known.name, driver=driver, mountpoint="", labels=None)
    _add_known(volume, known)
    return volume


def _add_known(volume: Volume, known: Known | None) -> None:
    if known is None:
        return
    volume.mountpoint = known.mountpoint or volume.mountpoint
    volume.created_at = known.created_at or volume.created_at
    if known.status:
        volume.status = known.status


def _is_mounted(target: Path) -> bool:
    """Whether anything is mounted exactly there. A bind mount within one file system is told by the mount table alone
    (`Path.is_mount` compares devices and does not see it)."""
    wanted = os.fsencode(target.resolve())
    with open("/proc/thread-self/mountinfo", "rb") as table:
        return any(_unescaped(line.split(b" ", 5)[4]) == wanted for line in table)


def _unescaped(field: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)


def matcher(filters: Mapping[str, Sequence[str]]) -> Callable[[VolumeRecord], bool]:
    """A predicate for the filters of `GET /volumes`. Raises InvalidArgument for a name or value that can't be."""
    for key in filters:
        if key not in FILTERS:
            raise InvalidArgument(f"Invalid filter '{key}'")
    dangling = {_truth(value) for value in filters.get("dangling", ())}

    def passes(record: VolumeRecord) -> bool:
        tests = (
            any(value in record.name for value in filters["name"]) if filters.get("name") else True,
            any(value in record.driver for value in filters["driver"]) if filters.get("driver") else True,
            all(has_label(record.labels, value) for value in filters.get("label", ())),
            (not record.holders) in dangling if dangling else True,
        )
        return all(tests)

    return passes


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether `key` or `key=value` holds."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _truth(value: str) -> bool:
    if value not in ("true", "1", "false", "0"):
        raise InvalidArgument(f"Invalid filter 'dangling=[{value}]'")
    return value in ("true", "1")
