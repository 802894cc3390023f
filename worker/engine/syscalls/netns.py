"""Network namespaces without fork: every operation runs in a fresh thread, which alone changes its namespace.

Invariant: no thread of a pool ever changes namespace. A thread that entered one ends with the call, so a failed
return to the old namespace can't leave a worker in the wrong place.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2
_NSFS_MAGIC = 0x6E736673

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def _check(result: int, what: str) -> None:
    if result != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), what)


def _in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own and hand on what it returns or raises."""
    result: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            result.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            failure.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def create(path: Path) -> None:
    """Make a network namespace and keep it under `path` (a new file). Blocking. Raises OSError; leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o444, exist_ok=False)

    def make() -> None:
        _check(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")
        _bind(b"/proc/thread-self/ns/net", path)

    try:
        _in_thread(make)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _bind(source: bytes, path: Path) -> None:
    _check(_libc.mount(source, os.fsencode(path), b"none", _MS_BIND, None), str(path))


def keep(pid: int, path: Path) -> None:
    """Put the namespace of a running process under `path` (made if missing): the mount was lost, the process not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o444)
    _bind(f"/proc/{pid}/ns/net".encode(), path)


def remove(path: Path) -> None:
    """Let go of the namespace under `path`; the kernel frees it with its last process. Idempotent. Blocking."""
    while is_namespace(path):
        _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), str(path))
    path.unlink(missing_ok=True)


def is_namespace(path: Path) -> bool:
    """Whether a namespace is mounted at `path`."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs; f_type comes first
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return int(ctypes.c_long.from_buffer(buffer).value) == _NSFS_MAGIC


def identity(path: Path) -> int:
    """The namespace's inode: unique while the namespace lives."""
    return path.stat().st_ino


def find_process(inode: int) -> int | None:
    """Some process inside the namespace of this inode; None if there is none. Reads all of /proc."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if (entry / "ns/net").stat().st_ino == inode:
                    return int(entry.name)
            except OSError:
                continue
    return None


def call(path: Path, work: Callable[[], T]) -> T:
    """Run `work` inside the namespace; sockets it opens stay in it. Blocking. Raises OSError and what `work` raises."""

    def body() -> T:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(descriptor, CLONE_NEWNET), f"setns({path})")
        finally:
            os.close(descriptor)
        return work()

    return _in_thread(body)


def in_new(work: Callable[[], T]) -> T:
    """Run `work` in a namespace that lasts only as long as what it opens or starts (threads it starts are inside)."""

    def body() -> T:
        _check(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")
        return work()

    return _in_thread(body)
