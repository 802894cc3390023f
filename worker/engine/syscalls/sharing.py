"""Giving one container the mount that another has, which no bind can: it refuses a source of another mount namespace.

The mount is cloned in the namespace it is in and attached in the other one. Paths are looked up inside each container,
so that nothing of the host can be meant.
"""

from __future__ import annotations

import ctypes
import os
import threading

CLONE_FS, CLONE_NEWNS = 0x00000200, 0x00020000
_OPEN_TREE, _MOVE_MOUNT = 428, 429  # the same on every architecture
_OPEN_TREE_CLONE = 1
_AT_FDCWD = -100
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_libc = ctypes.CDLL(None, use_errno=True)


def share_mount(owner: int, other: int, path: str) -> None:
    """Mount at `path` of the process `other` what the process `owner` has there. Blocking, well below a millisecond.

    Raises: OSError; nothing has changed then.
    """
    failure: list[OSError] = []

    def body() -> None:
        try:
            _share(owner, other, path)
        except OSError as error:
            failure.append(error)

    # A thread of its own: it never returns from the namespaces it enters.
    thread = threading.Thread(target=body, name="sharing")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _share(owner: int, other: int, path: str) -> None:
    source = os.open(f"/proc/{owner}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(f"/proc/{other}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check("unshare(CLONE_FS)", _libc.unshare(CLONE_FS))
            _check("setns", _libc.setns(source, CLONE_NEWNS))
            name = os.fsencode(path)
            flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
            tree = _check(f"open_tree {path}", _libc.syscall(ctypes.c_long(_OPEN_TREE), _AT_FDCWD, name, flags))
            try:
                _check("setns", _libc.setns(target, CLONE_NEWNS))
                arguments = (tree, b"", _AT_FDCWD, name, _MOVE_MOUNT_F_EMPTY_PATH)
                _check(f"move_mount {path}", _libc.syscall(ctypes.c_long(_MOVE_MOUNT), *arguments))
            finally:
                os.close(tree)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _check(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
