"""A container's file system as a mount namespace of its own, in which nothing else can be reached.

Copying into and out of containers works on such a view: the root's overlay with volumes and binds where the container
has them, whether it runs or not. No process lives in it; it lasts as long as the `View` is open. What processes of the
container mount or swap meanwhile is not seen, and no path leads out, because there is nothing else.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.engine.syscalls import mounts
from worker.engine.syscalls.openat2 import open_in_root

CLONE_NEWNS = 0x00020000
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on every architecture
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_AT_FDCWD, _AT_RECURSIVE, _AT_EMPTY_PATH = -100, 0x8000, 0x1000
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_MOUNT_ATTR_RDONLY = 1
_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


@dataclass(frozen=True)
class Graft:
    """One mount of the container."""

    target: str
    """Where in the container; it is left out if nothing is there."""
    source: Path
    readonly: bool = False


class View:
    """`root` is a descriptor (O_PATH) of the root directory."""

    def __init__(self, root: int, namespace: int) -> None:
        self.root = root
        self._namespace = namespace

    def close(self) -> None:
        """The mounts go with the last descriptor below the root."""
        os.close(self.root)
        os.close(self._namespace)


def open_view(root: Path, grafts: Sequence[Graft], *, readonly: bool = False) -> View:
    """A view of the mounted `root` with `grafts` on it, outer ones first. Blocking, about a millisecond.

    Raises: OSError; nothing is left.
    """
    made: list[View] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            made.append(_make(root, sorted(grafts, key=lambda graft: graft.target.count("/")), readonly))
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            failure.append(error)

    # A thread of its own: it never returns from the namespace it enters.
    thread = threading.Thread(target=body, name="mountview")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return made[0]


def _make(root: Path, grafts: Sequence[Graft], readonly: bool) -> View:
    if _libc.unshare(CLONE_NEWNS) != 0:
        raise _error("unshare(CLONE_NEWNS)")
    namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        mounts.make_private(Path("/"), recursive=True)
        mounts.bind(root, root, recursive=False)
        top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for graft in grafts:
                _attach(top, graft)
            if readonly:
                _make_readonly(top, 0)
            _leave_the_rest(top)
        finally:
            os.close(top)
        return View(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), namespace)
    except BaseException:
        os.close(namespace)
        raise


def _attach(top: int, graft: Graft) -> None:
    try:
        target = open_in_root(top, graft.target, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
        tree = _call(f"open_tree {graft.source}", _OPEN_TREE, _AT_FDCWD, os.fsencode(graft.source), flags)
        try:
            if graft.readonly:
                _make_readonly(tree, _AT_RECURSIVE)
            flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
            _call(f"move_mount to {graft.target}", _MOVE_MOUNT, tree, b"", target, b"", flags)
        except NotADirectoryError:
            return  # a file where a directory was wished, or the other way round: it could not start so, either
        finally:
            os.close(tree)
    finally:
        os.close(target)


def _make_readonly(fd: int, flags: int) -> None:
    attributes = _MountAttr(attr_set=_MOUNT_ATTR_RDONLY)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _call("mount_setattr", _MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH | flags, ctypes.byref(attributes), size)


def _leave_the_rest(top: int) -> None:
    """Make `top` the root and let go of everything that was above it."""
    os.fchdir(top)
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, "pivot_root is not known on this architecture")
    _call("pivot_root", number, b".", b".")
    # The old root now lies over the new one at the same place.
    if _libc.umount2(b".", mounts.MNT_DETACH) != 0:
        raise _error("umount of the old root")


def _call(what: str, number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise _error(what)
    return result


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
