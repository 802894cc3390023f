"""Whole directory trees by descriptors: removal and copy that no symbolic link or concurrent rename leads astray.

Invariant: every entry is reached by (directory descriptor, one name component) and never followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

_DEPTH_MAX = 128
"""Directories held open on the way down; deeper ones are moved up first, so depth costs no descriptors."""
_COPY_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove a file or a whole tree; nothing happens if it is not there. Mount points inside are an error (EBUSY)."""
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_at(parent, path.name)
    finally:
        os.close(parent)


def remove_at(directory: int, name: str) -> None:
    """Remove entry `name` of a directory, with all that is below it; nothing happens if it is not there."""
    try:
        os.unlink(name, dir_fd=directory)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
    top = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        # What lay too deep is moved to the top: go down again until nothing had to be moved.
        while _empty(top, top, 0):
            pass
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=directory)


def _empty(directory: int, top: int, depth: int) -> int:
    """Remove everything in `directory`; returns how many too deep directories were moved to `top` instead."""
    moved = 0
    with os.scandir(directory) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
            continue
        if depth >= _DEPTH_MAX:
            os.rename(name, f".moved-{directory}-{moved}-{os.urandom(4).hex()}", src_dir_fd=directory, dst_dir_fd=top)
            moved += 1
            continue
        child = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            moved += _empty(child, top, depth + 1)
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=directory)
    return moved


def copy_tree(source: int, target: int) -> None:
    """Copy the content of directory `source` into directory `target`: owners, modes, times, extended attributes,
    hard links among the copied, and special files. Existing entries of the same name are an error (FileExistsError).
    The attributes of `source` itself go to `target` too.
    """
    _copy_directory(source, target, target, {}, "")


def _copy_directory(source: int, target: int, top: int, links: dict[tuple[int, int], str], where: str) -> None:
    with os.scandir(source) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        info = os.stat(name, dir_fd=source, follow_symlinks=False)
        path = f"{where}/{name}" if where else name
        if stat.S_ISDIR(info.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            below = os.open(name, _DIRECTORY, dir_fd=source)
            try:
                into = os.open(name, _DIRECTORY, dir_fd=target)
                try:
                    _copy_directory(below, into, top, links, path)
                finally:
                    os.close(into)
            finally:
                os.close(below)
            continue
        seen = links.get((info.st_dev, info.st_ino)) if info.st_nlink > 1 else None
        if seen is not None:
            os.link(seen, name, src_dir_fd=top, dst_dir_fd=target, follow_symlinks=False)
            continue
        _copy_entry(source, target, name, info)
        if info.st_nlink > 1:
            links[(info.st_dev, info.st_ino)] = path
    info = os.stat(source)
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    copy_xattrs(f"/proc/self/fd/{source}/.", f"/proc/self/fd/{target}/.")
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _copy_entry(source: int, target: int, name: str, info: os.stat_result) -> None:
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISREG(info.st_mode):
        _copy_file(source, target, name)
    else:
        os.mknod(name, stat.S_IFMT(info.st_mode) | 0o600, info.st_rdev, dir_fd=target)
    os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        chmod_at(target, name, stat.S_IMODE(info.st_mode))
    copy_xattrs(f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{name}")
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, target: int, name: str) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        writer = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target
        )
        try:
            while data := os.read(reader, _COPY_CHUNK):
                write_all(writer, data)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """write(2) until all of it is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def chmod_at(directory: int, name: str, mode: int) -> None:
    """Permission bits of an entry, by a descriptor of the entry itself: a link put there meanwhile is not followed."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def copy_xattrs(source: str, target: str) -> None:
    """Extended attributes of one entry, but overlayfs's own; a target that keeps none loses them silently."""
    with contextlib.suppress(OSError):
        for key in os.listxattr(source, follow_symlinks=False):
            if key.startswith("trusted.overlay."):
                continue
            with contextlib.suppress(OSError):
                os.setxattr(target, key, os.getxattr(source, key, follow_symlinks=False), follow_symlinks=False)
