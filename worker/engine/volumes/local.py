"""The storage of the local driver: `<data-root>/volumes/<name>/_data`, and what options mount over it. It blocks.

Invariant: data that was there before is never dropped, and nothing is walked into that somebody mounted.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from api.errors import Internal, InvalidArgument
from base.ids import hex_id, short_id
from worker.engine.syscalls import mounts
from worker.engine.volumes.options import MountPlan

log = logging.getLogger(__name__)

_DOOMED = ".removing-"
"""No volume's name begins so."""


class LocalDirectories:
    """By volume name; names are checked by the caller."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def data(self, name: str) -> Path:
        return self._root / name / "_data"

    def sweep(self, known: Collection[str]) -> None:
        """Finish removals that a crash cut short, and take away the empty directories that a creation left."""
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        for entry in self._root.iterdir():
            self._put_back_known(entry, known)
        for entry in self._root.iterdir():
            if entry.name.startswith(_DOOMED):
                try:
                    # Whatever is mounted there is somebody else's data: never walk into it.
                    _unmount(entry / "_data")
                    shutil.rmtree(entry)
                except (Internal, OSError) as error:
                    log.warning("removal of a volume is left for later directory=%s error=%s", entry.name, error)
                else:
                    log.info("removal of a volume finished directory=%s", entry.name)
            elif entry.name not in known:
                self.unmake(entry.name)

    def _put_back_known(self, entry: Path, known: Collection[str]) -> None:
        """A volume was set aside, and then its record did not go: nobody was told that it has gone."""
        for name in known if entry.name.startswith(_DOOMED) else ():
            if entry.name.startswith(_doomed(name)) and not (self._root / name).exists():
                self.put_back(name, entry)
                log.info("volume put back that was about to be removed volume=%s", name)
                return

    def make(self, name: str) -> None:
        """Idempotent."""
        data = self.data(name)
        for directory in (self._root, data.parent):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        data.mkdir(mode=0o755, exist_ok=True)
        data.chmod(0o755)

    def unmake(self, name: str) -> None:
        """Only if empty: data that was there before is not ours to drop."""
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):  # a crash may have come between the two, when they were made
                self.data(name).rmdir()
            self.data(name).parent.rmdir()

    def mount(self, name: str, plan: MountPlan) -> None:
        """What the options say, unless it is there. Raises InvalidArgument with the kernel's word."""
        target = self.data(name)
        if _is_mounted(target):  # left by a daemon that went away while the container ran on
            return
        try:
            mounts.mount(plan.source, target, plan.kind, plan.flags, plan.data)
        except OSError as error:
            raise InvalidArgument(
                f"error while mounting volume '{target}': failed to mount local volume: mount {plan.source}:{target}, "
                f"flags: {hex(plan.flags)}{f', data: {plan.data}' if plan.data else ''}: "
                f"{os.strerror(error.errno or 0).lower()}"
            ) from error

    def unmount(self, name: str) -> None:
        """Idempotent."""
        _unmount(self.data(name))

    def set_aside(self, name: str) -> Path:
        """Out of the way, under a name no volume can have: a crash can't bring half of the data back. `sweep` knows by
        the record what it had come to."""
        if _is_mounted(self.data(name)):
            raise Internal(f"remove {name}: something is still mounted on the volume")
        doomed = self._root / f"{_doomed(name)}{short_id(hex_id())}"
        (self._root / name).rename(doomed)
        return doomed

    def put_back(self, name: str, doomed: Path) -> None:
        """Undo `set_aside`."""
        doomed.rename(self._root / name)

    def erase(self, doomed: Path) -> None:
        """What was set aside."""
        shutil.rmtree(doomed)


def _doomed(name: str) -> str:
    """How the name begins under which a volume is set aside; its own may be as long as names can be."""
    return f"{_DOOMED}{hashlib.sha256(name.encode()).hexdigest()[:32]}-"


def _unmount(target: Path) -> None:
    while _is_mounted(target):
        try:
            mounts.umount(target)
        except OSError as error:
            raise Internal(f"unmount {target}: {os.strerror(error.errno or 0).lower()}") from error


def _is_mounted(target: Path) -> bool:
    """Whether anything is mounted exactly there."""
    return target.resolve() in mounts.mount_points()
