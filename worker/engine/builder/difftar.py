"""The upper directory of an overlay as a layer: a tar with deletion marks (v1.24 "Image tarball format"). Blocking.

The same content gives the same bytes: entries are sorted, times are whole seconds, and nothing but content, owners,
modes and extended attributes is written. overlayfs's own marks become `.wh.` entries, its attributes stay here.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

from worker.engine.images.compression import Writable
from worker.engine.syscalls.openat2 import open_directory

CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_MARK = ".wh."
_OVERLAY_XATTR = "trusted.overlay."
_KEPT_XATTRS = ("security.capability", "user.")


class Layer:
    """What was written."""

    def __init__(self) -> None:
        self.entries = 0
        self.size = 0
        """Bytes of files and symbolic links."""
        self.whole = True
        """Everything in the directory is in the layer, and means the same there: unpacking it gives the directory."""


def write_layer(upper: Path, target: Writable, stopped: Callable[[], bool] = lambda: False) -> Layer:
    """Write everything in `upper`. `stopped` is asked now and then; when it says yes, the tar ends early.

    Raises OSError.
    """
    return _Writer(upper, target, stopped).run()


class _Writer:
    """Every entry is reached by a descriptor of its directory, resolved within `upper`: the container may still run."""

    def __init__(self, upper: Path, target: Writable, stopped: Callable[[], bool]) -> None:
        self._upper = upper
        self._target = target
        self._stopped = stopped
        self._links: dict[tuple[int, int], str] = {}
        self._layer = Layer()
        self._buffer = bytearray()

    def run(self) -> Layer:
        root = os.open(self._upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            pending = [""]  # a list, not recursion: depth costs memory only
            while pending and not self._stopped():
                pending += reversed(self._directory(root, pending.pop()))
        finally:
            os.close(root)
        self._put(bytes(2 * _BLOCK))
        self._flush()
        return self._layer

    def _put(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        self._target.write(bytes(self._buffer))
        self._buffer.clear()

    def _directory(self, root: int, path: str) -> list[str]:
        """Write the entries of a directory; returns the directories among them."""
        try:
            directory = open_directory(root, path)
        except (FileNotFoundError, NotADirectoryError):
            return []  # it went away while we walked
        below: list[str] = []
        try:
            if path and _is_opaque(directory):
                self._header(tarfile.TarInfo(f"{path}/.wh..wh..opq"))
            for name in sorted(os.listdir(directory)):
                self._layer.whole &= not name.startswith(_MARK)
                child = f"{path}/{name}" if path else name
                try:
                    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    self._entry(directory, name, child, info)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(info.st_mode):
                    below.append(child)
        finally:
            os.close(directory)
        return below

    def _header(self, item: tarfile.TarInfo) -> None:
        self._layer.entries += 1
        self._put(item.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _entry(self, directory: int, name: str, path: str, info: os.stat_result) -> None:
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            above, slash, _ = path.rpartition("/")
            self._header(tarfile.TarInfo(f"{above}{slash}.wh.{name}"))
            return
        item = tarfile.TarInfo(path)
        item.mode, item.uid, item.gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
        item.mtime = int(info.st_mtime)
        item.pax_headers = self._xattrs(f"/proc/self/fd/{directory}/{name}")
        identity = (info.st_dev, info.st_ino)
        if stat.S_ISDIR(info.st_mode):
            item.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(info.st_mode):
            item.type, item.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=directory)
            self._layer.size += len(os.fsencode(item.linkname))
        elif stat.S_ISFIFO(info.st_mode):
            item.type = tarfile.FIFOTYPE
        elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
            item.type = tarfile.CHRTYPE if stat.S_ISCHR(info.st_mode) else tarfile.BLKTYPE
            item.devmajor, item.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
        elif stat.S_ISSOCK(info.st_mode):
            self._layer.whole = False
            return  # tar has no sockets
        elif info.st_nlink > 1 and identity in self._links:
            item.type, item.linkname = tarfile.LNKTYPE, self._links[identity]
        else:
            self._file(directory, name, item, info)
            self._links[identity] = path
            return
        self._header(item)

    def _file(self, directory: int, name: str, item: tarfile.TarInfo, info: os.stat_result) -> None:
        """Exactly the size of the header: what a file loses meanwhile is zeros, what it gains is left out."""
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            item.size = rest = info.st_size
            self._layer.size += info.st_size
            self._header(item)
            while rest and (data := os.read(fd, min(CHUNK, rest))):
                rest -= len(data)
                self._put(data)
        finally:
            os.close(fd)
        while rest:
            self._put(bytes(min(CHUNK, rest)))
            rest -= min(CHUNK, rest)
        self._put(bytes(-info.st_size % _BLOCK))

    def _xattrs(self, path: str) -> dict[str, str]:
        found: dict[str, str] = {}
        try:
            for name in os.listxattr(path, follow_symlinks=False):
                if name.startswith(_KEPT_XATTRS):
                    value = os.getxattr(path, name, follow_symlinks=False)
                    found[f"SCHILY.xattr.{name}"] = value.decode("utf-8", "surrogateescape")
                elif not name.startswith(_OVERLAY_XATTR):
                    self._layer.whole = False
        except OSError:
            return {}
        return found


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, _OVERLAY_XATTR + "opaque") == b"y"
    except OSError:
        return False
