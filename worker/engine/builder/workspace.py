"""Working directories of builds: contexts, and roots that are written to for a moment. Blocking but where it says so.

Invariant: everything lies below one directory that is emptied at start; what a crash left is unmounted first.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from api.errors import Internal
from base.offload import Pool
from worker.engine.syscalls import mounts
from worker.engine.syscalls.tree import remove_tree


@dataclass(frozen=True)
class MountedRoot:
    """The merged root of some layers, and what was written to it."""

    merged: Path
    upper: Path


class Workspace:
    """All builds of this host."""

    def __init__(self, root: Path, disk: Pool) -> None:
        self._root = root
        self._disk = disk

    async def start_up(self) -> None:
        await self._disk.run(self._prepare)

    def _prepare(self) -> None:
        if self._root.exists():
            for home in self._root.iterdir():
                self._remove(home)
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _remove(self, home: Path) -> None:
        mounts.umount(home / "merged")
        remove_tree(home)

    @contextlib.asynccontextmanager
    async def directory(self) -> AsyncIterator[Path]:
        """An empty directory for the length of a block."""
        home = self._root / secrets.token_hex(8)
        await self._disk.run(home.mkdir, 0o700)
        try:
            yield home
        finally:
            await self._disk.run(self._remove, home)

    async def unmount(self, root: MountedRoot) -> bool:
        """End the mount early, so that `root.upper` is a plain directory; False when somebody still uses it."""
        try:
            return await self._disk.run(mounts.umount, root.merged, lazy=False)
        except OSError:
            return False

    @contextlib.asynccontextmanager
    async def root(self, layers: Sequence[Path]) -> AsyncIterator[MountedRoot]:
        """A writable root over `layers` (lowest first) for the length of a block."""
        async with self.directory() as home:
            yield await self._disk.run(_mount, home, list(layers))


def _mount(home: Path, layers: list[Path]) -> MountedRoot:
    root = MountedRoot(home / "merged", home / "upper")
    empty, work = home / "empty", home / "work"
    for path in (root.merged, root.upper, work, empty):
        path.mkdir()
    for path in (root.upper, empty):
        path.chmod(0o755)
    try:
        mounts.overlay(layers or [empty], root.upper, work, root.merged)
    except OSError as error:
        raise Internal(f"error creating overlay mount to {root.merged}: {error}") from error
    return root
