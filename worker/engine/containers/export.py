"""GET /containers/{id}/export: the merged root as a tar stream.

Nothing is held in memory but one piece of a file; names that the format has no room for go into pax headers.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from worker.engine.containers.kit import Kit
from worker.engine.containers.rootfs import Rootfs

CHUNK_BYTES = 1 << 20
_BLOCK = tarfile.BLOCKSIZE


class Exporter:
    def __init__(self, kit: Kit, rootfs: Rootfs) -> None:
        self._kit = kit
        self._rootfs = rootfs

    async def export(self, ref: str) -> AsyncIterator[bytes]:
        """The tar in pieces. Raises NotFound before the first of them."""
        container = self._kit.store.get(ref)
        image = await self._kit.images.resolve(container.record.image_id)
        return self._pieces(container.id, list(image.layers), container.attributes())

    async def _pieces(self, container_id: str, layers: list[Path], attributes: dict[str, str]) -> AsyncIterator[bytes]:
        async with self._rootfs.mounted(container_id, layers) as root:
            pieces = tar_tree(root)
            while piece := await self._kit.disk.run(next, pieces, b""):
                yield piece
        self._kit.events.publish("container", "export", container_id, attributes)


def tar_tree(root: Path) -> Iterator[bytes]:
    """A tar of everything in `root` on its own file system, in pieces of about CHUNK_BYTES; blocking."""
    device = os.lstat(root).st_dev
    links: dict[tuple[int, int], str] = {}
    buffer = bytearray()
    for path, info in _walk(root, device):
        buffer += _head(root, path, info, links)
        if stat.S_ISREG(info.st_mode) and not _repeated(info, path, links):
            for data in _content(root / path, info.st_size):
                buffer += data
                if len(buffer) >= CHUNK_BYTES:
                    yield bytes(buffer)
                    buffer.clear()
        if len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer) + bytes(2 * _BLOCK)


def _walk(root: Path, device: int) -> Iterator[tuple[str, os.stat_result]]:
    """Relative paths, parents before children, sorted; what is mounted inside is left out."""
    pending = [""]
    while pending:
        directory = pending.pop()
        try:
            names = sorted(os.listdir(root / directory))
        except (FileNotFoundError, NotADirectoryError):
            continue  # it went away while we walked
        below = []
        for name in names:
            path = f"{directory}/{name}" if directory else name
            try:
                info = os.lstat(root / path)
            except FileNotFoundError:
                continue
            if info.st_dev != device and stat.S_ISDIR(info.st_mode):
                continue
            yield path, info
            if stat.S_ISDIR(info.st_mode):
                below.append(path)
        pending += reversed(below)


def _repeated(info: os.stat_result, path: str, links: dict[tuple[int, int], str]) -> bool:
    return info.st_nlink > 1 and links.get((info.st_dev, info.st_ino), path) != path


def _head(root: Path, path: str, info: os.stat_result, links: dict[tuple[int, int], str]) -> bytes:
    item = tarfile.TarInfo(path)
    item.mode, item.uid, item.gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
    item.mtime = int(info.st_mtime)
    if stat.S_ISDIR(info.st_mode):
        item.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(info.st_mode):
        item.type, item.linkname = tarfile.SYMTYPE, os.readlink(root / path)
    elif stat.S_ISFIFO(info.st_mode):
        item.type = tarfile.FIFOTYPE
    elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        item.type = tarfile.CHRTYPE if stat.S_ISCHR(info.st_mode) else tarfile.BLKTYPE
        item.devmajor, item.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
    elif stat.S_ISSOCK(info.st_mode):
        return b""  # tar has no sockets
    elif info.st_nlink > 1 and (info.st_dev, info.st_ino) in links:
        item.type, item.linkname = tarfile.LNKTYPE, links[info.st_dev, info.st_ino]
    else:
        item.size = info.st_size
        links[info.st_dev, info.st_ino] = path
    return item.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _content(path: Path, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes and padding: what a file lost meanwhile is zeros, what it gained is left out."""
    rest = size
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
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
    yield bytes(-size % _BLOCK)
