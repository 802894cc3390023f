"""The overlay root of a container: mounted while it runs, and for a moment when somebody reads a stopped one.

Invariant: at most one overlay over an upper directory at a time; users are counted, the last one unmounts.

Unmounting an overlay writes out all that is dirty on the disk below it, whoever wrote it: 3 to 100 ms and more. So
nobody waits for that: mounts and directories are taken away in the background, and a crash in between leaves what the
next start of the daemon takes away (`restore`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from api.errors import Internal
from base import faultpoint
from base.locks import KeyedLocks
from base.offload import Pool
from base.supervise import TaskOwner
from worker.engine.containers.kit import Layout
from worker.engine.syscalls import mounts
from worker.engine.syscalls.tree import remove_tree

DIRECTORY_MODE = 0o710
RECLAIM_THREADS = 2
MAX_BEHIND = 64
"""Roots that may wait to be taken away; a client that removes more waits for them."""
INIT_DIRECTORIES = ("dev", "dev/pts", "dev/shm", "proc", "sys", "etc")
INIT_FILES = (".dockerenv", "dev/console", "etc/hosts", "etc/hostname", "etc/resolv.conf")
"""`.dockerenv` is how programs tell that they are in a container."""


class Rootfs:
    """Mounts and unmounts roots; the directories are made here, too."""

    def __init__(self, layout: Layout, disk: Pool) -> None:
        self._layout = layout
        self._disk = disk
        self._users: dict[str, int] = {}
        self._mounted: set[str] = set()
        """By us and still; those without users wait to be unmounted."""
        self._locks = KeyedLocks()
        self._reclaim = Pool("reclaim", RECLAIM_THREADS)
        self._owner = TaskOwner("rootfs")
        self._behind = asyncio.Semaphore(MAX_BEHIND)

    async def start_up(self) -> None:
        """Make the init layer."""
        await self._disk.run(_make_init, self._layout.init)

    async def create(self, container_id: str) -> None:
        """Make the directories of a new container."""
        await self._disk.run(self._create, container_id)

    def _create(self, container_id: str) -> None:
        layout = self._layout
        os.makedirs(layout.directory(container_id), DIRECTORY_MODE)
        for path in (layout.upper(container_id), layout.work(container_id), layout.merged(container_id)):
            path.mkdir()

    async def mount(self, container_id: str, layers: Sequence[Path]) -> Path:
        """The merged root, mounted until `unmount` was called as often. `layers` are lowest first."""
        async with self._locks.of(container_id):
            if container_id not in self._mounted and not self._users.get(container_id):
                await self._disk.run(self._mount, container_id, list(layers))
                self._mounted.add(container_id)
            self._users[container_id] = self._users.get(container_id, 0) + 1
        return self._layout.merged(container_id)

    def _mount(self, container_id: str, layers: list[Path]) -> None:
        layout = self._layout
        target = layout.merged(container_id)
        _unmount_all(target)
        try:
            mounts.overlay([*layers, layout.init], layout.upper(container_id), layout.work(container_id), target)
        except OSError as error:
            raise Internal(f"error creating overlay mount to {target}: {error}") from error
        faultpoint.reach("root.mounted")

    def keep(self, container_id: str) -> None:
        """Count a root that a process from before the daemon's restart still uses. It may not be mounted in this
        mount namespace; it must not be mounted a second time."""
        self._users[container_id] = self._users.get(container_id, 0) + 1

    async def unmount(self, container_id: str) -> None:
        """One user less; after the last one the mount goes away soon."""
        users = self._users.get(container_id, 0)
        if users > 1:
            self._users[container_id] = users - 1
            return
        self._users.pop(container_id, None)
        await self._later(container_id, self._unmount_unused)

    async def _unmount_unused(self, container_id: str) -> None:
        if not self._users.get(container_id):
            await self._reclaim.run(_unmount_all, self._layout.merged(container_id))
            self._mounted.discard(container_id)

    @contextlib.asynccontextmanager
    async def mounted(self, container_id: str, layers: Sequence[Path]) -> AsyncIterator[Path]:
        """The merged root for the length of a block."""
        root = await self.mount(container_id, layers)
        try:
            yield root
        finally:
            await self.unmount(container_id)

    async def remove(self, container_id: str) -> None:
        """Everything of a container on disk goes away soon; idempotent. Its id is not used again."""
        self._users.pop(container_id, None)
        await self._later(container_id, self._remove_all)

    async def _remove_all(self, container_id: str) -> None:
        await self._reclaim.run(self._remove, container_id)
        self._mounted.discard(container_id)

    def _remove(self, container_id: str) -> None:
        _unmount_all(self._layout.merged(container_id))
        remove_tree(self._layout.bundle(container_id))
        faultpoint.reach("root.removing")
        # Last: by its directory the next daemon finds what a crash has left of a container that has no record any more.
        remove_tree(self._layout.directory(container_id))

    async def close(self) -> None:
        """Wait for what is being taken away."""
        await self._owner.drain()
        await self._owner.close()
        self._reclaim.close()

    async def _later(self, container_id: str, step: Callable[[str], Awaitable[None]]) -> None:
        """Do it in the background, in order with the root's other changes."""
        await self._behind.acquire()
        self._owner.spawn(self._in_turn(container_id, step), name=f"reclaim {container_id[:12]}")

    async def _in_turn(self, container_id: str, step: Callable[[str], Awaitable[None]]) -> None:
        try:
            async with self._locks.of(container_id):
                await step(container_id)
        finally:
            self._behind.release()


def _make_init(path: Path) -> None:
    for name in INIT_DIRECTORIES:
        (path / name).mkdir(parents=True, exist_ok=True, mode=0o755)
    for name in INIT_FILES:
        (path / name).touch(mode=0o755 if name in (".dockerenv", "dev/console") else 0o644)
    if not os.path.lexists(path / "etc/mtab"):
        os.symlink("/proc/mounts", path / "etc/mtab")


def _unmount_all(target: Path) -> None:
    """Take away whatever is mounted there, also what a daemon that crashed left."""
    while os.path.ismount(target):
        mounts.umount(target)
