"""Mounts by system call: overlay roots, binds, tmpfs, unmount. Blocking, microseconds each: call from a thread.

Every function raises OSError whose text names the path. Nothing here follows a policy; paths are the caller's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
PAGE = 4096
"""mount(2) takes no more bytes of options than this."""

_WHOLE_UPPER = ("redirect_dir", "metacopy")
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432  # the same on every architecture
_FSOPEN_CLOEXEC = 1
_FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 1, 6
_FSMOUNT_CLOEXEC = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def overlay(lower: Sequence[Path], upper: Path, work: Path, target: Path) -> None:
    """Mount an overlay at `target`; `lower` is lowest first. Any number of layers (kernel 6.5), else what fits a page.

    Whatever the kernel's defaults are, `upper` holds all there is of what was changed: renamed directories and files
    with new owners are copied up whole, so that it can be read by itself (a commit does).

    Raises:
        OSError: with the step and the target in its text; nothing stays mounted.
    """
    top_first = [os.fspath(path) for path in reversed(lower)]
    try:
        _overlay_by_fsconfig(top_first, upper, work, target)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        _overlay_by_mount(top_first, upper, work, target)


def _overlay_by_fsconfig(top_first: Sequence[str], upper: Path, work: Path, target: Path) -> None:
    context = _call(f"fsopen(overlay) for {target}", _FSOPEN, b"overlay", _FSOPEN_CLOEXEC)
    try:
        for path in top_first:
            _set(context, "lowerdir+", path)
        _set(context, "upperdir", os.fspath(upper))
        _set(context, "workdir", os.fspath(work))
        for option in _WHOLE_UPPER:
            _set(context, option, "off")
        _call(f"overlay at {target}", _FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        mount = _call(f"fsmount for {target}", _FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        _call(
            f"move_mount to {target}",
            *(_MOVE_MOUNT, mount, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH),
        )
    finally:
        os.close(mount)


def _set(context: int, key: str, value: str) -> None:
    _call(f"{key}={value}", _FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)


def _overlay_by_mount(top_first: Sequence[str], upper: Path, work: Path, target: Path) -> None:
    for path in (*top_first, os.fspath(upper), os.fspath(work)):
        if "," in path or ":" in path:
            raise OSError(errno.EINVAL, "a path with , or : can't be part of an overlay on this kernel", path)
    whole = "".join(f",{option}=off" for option in _WHOLE_UPPER)
    options = f"lowerdir={':'.join(top_first)},upperdir={upper},workdir={work}{whole}"
    if len(os.fsencode(options)) >= PAGE:
        raise OSError(errno.E2BIG, f"{len(top_first)} layers are too many for this kernel", os.fspath(target))
    mount("overlay", target, "overlay", 0, options)


def mount(source: str | Path, target: Path, kind: str | None, flags: int = 0, options: str = "") -> None:
    """mount(2) as it is."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() if options else None,
    )
    if result != 0:
        raise _error(f"mount {source} on", target)


def bind(source: Path, target: Path, *, readonly: bool = False, recursive: bool = True) -> None:
    """Bind `source` at `target`, which exists and is of the same kind (file or directory)."""
    mount(source, target, None, MS_BIND | (MS_REC if recursive else 0))
    if readonly:
        try:
            mount(source, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY)
        except OSError:
            umount(target)
            raise


def tmpfs(target: Path, options: str = "mode=1777", flags: int = MS_NOSUID | MS_NODEV | MS_NOEXEC) -> None:
    """Mount a fresh tmpfs: `size=...`, `mode=...`."""
    mount("tmpfs", target, "tmpfs", flags, options)


def make_private(target: Path, *, recursive: bool = False) -> None:
    """Mounts below `target` are seen by nobody else, and theirs not here. `target` is a mount point."""
    mount("none", target, None, MS_PRIVATE | (MS_REC if recursive else 0))


def umount(target: Path, *, lazy: bool = True) -> bool:
    """Unmount the topmost mount at `target`.

    `lazy` detaches it at once and lets it go when its last user has.

    Returns:
        False if nothing was mounted there (or nothing is there at all).
    """
    if _libc.umount2(os.fsencode(target), MNT_DETACH if lazy else 0) == 0:
        return True
    if ctypes.get_errno() in (errno.EINVAL, errno.ENOENT):
        return False
    raise _error("umount", target)


def mount_points() -> list[Path]:
    """Where something is mounted in this mount namespace, in the order it was; without symbolic links. Also binds in
    one file system, which `Path.is_mount` does not see: it compares devices."""
    table = Path("/proc/thread-self/mountinfo").read_bytes()
    return [Path(os.fsdecode(_unescaped(line.split(b" ", 5)[4]))) for line in table.splitlines()]


def _unescaped(field: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)


def _call(what: str, number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise _error(what)
    return result


def _error(what: str, path: Path | None = None) -> OSError:
    number = ctypes.get_errno()
    if path is None:
        return OSError(number, f"{what}: {os.strerror(number)}")
    return OSError(number, f"{what} {path}: {os.strerror(number)}", os.fspath(path))
