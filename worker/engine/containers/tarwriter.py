"""A directory tree as a tar stream, read by descriptors below one root; blocking.

Invariant: nothing outside the root is read, whatever processes inside rename or link meanwhile. Directories are opened
by openat2 below the root, everything else by one name in its directory and never followed. Nothing is held in memory
but one piece of a file; names that the format has no room for go into pax headers.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from worker.engine.syscalls.openat2 import open_directory

CHUNK_BYTES = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_CAPABILITY = "security.capability"


@dataclass
class Tree:
    """What to write: `start` below the descriptor `root`, under the name `name`.

    `start` is a real path (no links in it), relative to the root, "" for the root itself; a directory is written with
    everything below it. `name` "" leaves the top directory itself out. With `one_device` what is mounted inside is
    left out.
    """

    root: int
    start: str = ""
    name: str = ""
    one_device: bool = False
    _links: dict[tuple[int, int], str] = field(default_factory=dict)

    def pieces(self) -> Iterator[bytes]:
        """The tar in pieces of about CHUNK_BYTES, with its end mark."""
        buffer = bytearray()
        for data in self._parts():
            if len(data) >= CHUNK_BYTES and not buffer:
                yield data
                continue
            buffer += data
            if len(buffer) >= CHUNK_BYTES:
                yield bytes(buffer)
                buffer.clear()
        yield bytes(buffer) + bytes(2 * _BLOCK)

    def _parts(self) -> Iterator[bytes]:
        above, _, base = self.start.rpartition("/")
        if base:
            directory = open_directory(self.root, above or ".")
            try:
                info = os.stat(base, dir_fd=directory, follow_symlinks=False)
                yield from self._entry(directory, base, self.name, info)
            finally:
                os.close(directory)
        else:
            info = os.stat(self.root)
            if self.name:
                yield self._head(self.root, ".", self.name, info)
        if stat.S_ISDIR(info.st_mode):
            yield from self._below(info.st_dev)

    def _below(self, device: int) -> Iterator[bytes]:
        """Parents before children, sorted."""
        pending = [(self.start or ".", self.name)]
        while pending:
            path, name = pending.pop()
            try:
                directory = open_directory(self.root, path)
            except OSError:
                continue  # it went away while we walked
            inner: list[tuple[str, str]] = []
            try:
                for base in sorted(os.listdir(directory)):
                    shown = f"{name.rstrip('/')}/{base}" if name else base
                    try:
                        info = os.stat(base, dir_fd=directory, follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    is_directory = stat.S_ISDIR(info.st_mode)
                    if self.one_device and is_directory and info.st_dev != device:
                        continue
                    yield from self._entry(directory, base, shown, info)
                    if is_directory:
                        inner.append((f"{path}/{base}", shown))
            finally:
                os.close(directory)
            pending += reversed(inner)

    def _entry(self, directory: int, base: str, name: str, info: os.stat_result) -> Iterator[bytes]:
        head = self._head(directory, base, name, info)
        yield head
        if head and stat.S_ISREG(info.st_mode) and not self._repeated(info, name):
            yield from _content(directory, base, info.st_size)

    def _repeated(self, info: os.stat_result, name: str) -> bool:
        return info.st_nlink > 1 and self._links.get((info.st_dev, info.st_ino), name) != name

    def _head(self, directory: int, base: str, name: str, info: os.stat_result) -> bytes:
        item = tarfile.TarInfo(name)
        item.mode, item.uid, item.gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
        item.mtime = int(info.st_mtime)
        if stat.S_ISDIR(info.st_mode):
            item.type, item.name = tarfile.DIRTYPE, name.rstrip("/") + "/"
        elif stat.S_ISLNK(info.st_mode):
            try:
                item.type, item.linkname = tarfile.SYMTYPE, os.readlink(base, dir_fd=directory)
            except OSError:
                return b""  # something else took its place
        elif stat.S_ISFIFO(info.st_mode):
            item.type = tarfile.FIFOTYPE
        elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
            item.type = tarfile.CHRTYPE if stat.S_ISCHR(info.st_mode) else tarfile.BLKTYPE
            item.devmajor, item.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
        elif stat.S_ISSOCK(info.st_mode):
            return b""  # tar has no sockets
        elif self._repeated(info, name):
            item.type, item.linkname = tarfile.LNKTYPE, self._links[info.st_dev, info.st_ino]
        else:
            item.size = info.st_size
            self._links[info.st_dev, info.st_ino] = name
            item.pax_headers = _capability(directory, base)
        return item.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _capability(directory: int, base: str) -> dict[str, str]:
    """A program's file capabilities: the one extended attribute that archives carry."""
    try:
        value = os.getxattr(f"/proc/self/fd/{directory}/{base}", _CAPABILITY, follow_symlinks=False)
    except OSError:
        return {}
    return {f"SCHILY.xattr.{_CAPABILITY}": value.decode("utf-8", "surrogateescape")}


def _content(directory: int, base: str, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes and padding: what a file lost meanwhile is zeros, what it gained is left out."""
    rest = size
    try:
        fd = os.open(base, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        fd = -1  # it went away while we walked
    try:
        while rest and fd >= 0 and (data := os.read(fd, min(CHUNK_BYTES, rest))):
            rest -= len(data)
            yield data
    finally:
        if fd >= 0:
            os.close(fd)
    while rest:
        yield bytes(min(rest, CHUNK_BYTES))
        rest -= min(rest, CHUNK_BYTES)
    if size % _BLOCK:
        yield bytes(-size % _BLOCK)
