"""openat2(2), which Python does not offer: opening paths that can't leave a root directory.

Every path that comes from an image, an archive or a container is opened here, relative to a directory descriptor:
`..`, absolute links and links to links are resolved as if that directory were `/`, and magic links of /proc never.
"""

from __future__ import annotations

import ctypes
import errno
import os

_SYS_OPENAT2 = 437
"""The same number on every architecture (linux/unistd, since 5.6)."""
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_TRIES = 64

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def open_in_root(root: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` as if the directory `root` were the root of the file system.

    Args:
        root: descriptor of a directory (O_PATH will do).
        flags: open(2) flags; O_CLOEXEC is added.
        mode: permission bits, with O_CREAT only.

    Returns: a descriptor the caller closes. Raises OSError as open(2) does.
    """
    if "\0" in path:
        raise OSError(errno.EINVAL, "a path can't contain NUL", path)
    how = _OpenHow(flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    encoded = os.fsencode(path or ".")
    for _ in range(_TRIES):
        fd: int = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2), ctypes.c_int(root), encoded, ctypes.byref(how), ctypes.c_size_t(24)
        )
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        # EAGAIN: somebody renamed under the resolver, which could not be sure; the kernel asks to try again.
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), path)


def open_directory(root: int, path: str) -> int:
    """A readable directory below `root`; raises OSError (ENOTDIR, ENOENT, ...)."""
    return open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY)


def sync_filesystem(fd: int) -> None:
    """syncfs(2): what was written to the file system of `fd` is on disk when this returns."""
    if _libc.syncfs(ctypes.c_int(fd)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
