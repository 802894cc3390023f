"""Small file work inside a container's root, by paths that can't leave it. Blocking: call it in a thread."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from api.errors import InvalidArgument
from worker.engine.syscalls.openat2 import open_in_root
from worker.engine.syscalls.tree import copy_tree

TEXT_BYTES_MAX = 4 * 1024 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def read_text(root: Path, path: str) -> str:
    """A small file of the root; empty if it is not there or no regular file, or if the root has just gone."""
    try:
        top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fd = open_in_root(top, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    finally:
        os.close(top)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return ""
        return file.read(TEXT_BYTES_MAX).decode("utf-8", "replace")


def make_directories(root: Path, path: str) -> None:
    """`mkdir -p` below the root, links followed inside it. Raises InvalidArgument if a file is in the way."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        done = ""
        for name in [part for part in path.split("/") if part and part != "."]:
            parent, done = done or "/", f"{done}/{name}"
            _make_one(top, parent, name, done)
    finally:
        os.close(top)


def _make_one(top: int, parent: str, name: str, path: str) -> None:
    try:
        os.close(open_in_root(top, path, os.O_PATH | os.O_DIRECTORY))
        return
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise InvalidArgument(f"Cannot mkdir: {path} is not a directory") from None
    directory = open_in_root(top, parent, _DIRECTORY)
    try:
        os.mkdir(name, 0o755, dir_fd=directory)
    except FileExistsError:
        raise InvalidArgument(f"Cannot mkdir: {path} is a dangling link") from None
    finally:
        os.close(directory)


def copy_up(root: Path, path: str, volume: Path) -> None:
    """Fill an empty volume with what the image has at its mount point (content, owner, mode). Does nothing for a
    volume that has content, or a path the image has not."""
    if any(os.scandir(volume)):
        return
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        source = open_in_root(top, path, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    finally:
        os.close(top)
    try:
        target = os.open(volume, _DIRECTORY | os.O_CLOEXEC)
        try:
            copy_tree(source, target)
            found = os.fstat(source)
            os.fchown(target, found.st_uid, found.st_gid)
            os.fchmod(target, stat.S_IMODE(found.st_mode))
        finally:
            os.close(target)
    finally:
        os.close(source)
