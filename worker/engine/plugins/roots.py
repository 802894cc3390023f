"""A plugin's directories and mounts: made before it runs, kept while it is enabled, taken away after. Blocking.

Invariant: what the plugin mounts in its PropagatedMount is seen by the host from the moment it is mounted, and is gone
when `take_down` returns; nothing is ever removed through a mount.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from api.errors import Internal
from base import faultpoint
from worker.engine.plugins.plan import Place
from worker.engine.syscalls import mounts
from worker.engine.syscalls.tree import remove_tree

_MS_SHARED = 1 << 20


def prepare(place: Place, layers: Sequence[Path], *, propagated: bool) -> None:
    """Everything that is mounted for a plugin; idempotent. `layers` are lowest first. Raises Internal."""
    try:
        for path in (place.upper, place.work, place.merged, place.bundle):
            path.mkdir(mode=0o710, parents=True, exist_ok=True)
        place.upper.chmod(0o755)  # it is the plugin's /
        mounted = mounts_below(place.home)
        if place.merged not in mounted:
            mounts.overlay(layers, place.upper, place.work, place.merged)
            mounts.make_private(place.merged)
        if propagated:
            place.propagated.mkdir(mode=0o755, exist_ok=True)
            if place.propagated not in mounted:
                mounts.bind(place.propagated, place.propagated)
                mounts.mount("none", place.propagated, None, _MS_SHARED)
    except OSError as error:
        raise Internal(f"preparing the plugin's file system: {error}") from error
    faultpoint.reach("plugin.mounted")


def clear_sockets(place: Place) -> None:
    """An empty directory for the socket: one of an earlier run would answer to nobody."""
    remove_tree(place.sockets)
    place.sockets.mkdir(mode=0o700, parents=True)


def take_down(place: Place) -> None:
    """Unmount all, the plugin's own mounts first; idempotent. What it wrote stays."""
    remove_tree(place.sockets)
    for target in reversed(mounts_below(place.home)):
        mounts.umount(target)


def remove(place: Place) -> None:
    """Everything of a plugin; idempotent."""
    take_down(place)
    remove_tree(place.home)


def mounts_below(directory: Path) -> list[Path]:
    """Mount points at or below a directory, in the order they were made; one for each mount. As paths below it, though
    the kernel tells them without symbolic links."""
    real = directory.resolve()
    return [directory / target.relative_to(real) for target in mounts.mount_points() if target.is_relative_to(real)]
