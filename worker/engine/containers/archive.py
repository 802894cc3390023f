"""Copying files out of and into containers (v1.24 "Get an archive of a filesystem resource in a container" and after).

Paths are resolved in a view of the container's file system (`syscalls.mountview`): its root with volumes and binds,
running or not, and nothing else. A link as the last part of a path stands for itself, as with dockerd; `link/` and
`link/.` stand for the directory it leads to.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import posixpath
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from api.errors import Cancelled, Forbidden, InvalidArgument, NotFound
from api.types.container import PathStat
from base.clock import rfc3339nano
from base.ids import hex_id
from base.offload import Pool
from worker.engine.containers.inroot import copy_up, make_directories, read_text
from worker.engine.containers.kit import Kit
from worker.engine.containers.records import ContainerRecord
from worker.engine.containers.rootfs import Rootfs
from worker.engine.containers.store import Container
from worker.engine.containers.tarwriter import Tree
from worker.engine.images.compression import open_plain
from worker.engine.images.extract import ExtractOptions, extract
from worker.engine.runtime import users
from worker.engine.syscalls.mountview import Graft, View, open_view
from worker.engine.syscalls.openat2 import open_directory, open_in_root

THREADS = 16
"""Uploads at a time: each waits for its client in a thread."""
CLIENT_CHECK_S = 1.0
FETCH_BYTES = 1 << 20
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_NETWORK_FILES = ("hosts", "hostname", "resolv.conf")
_GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}


class Archiver:
    """HEAD, GET and PUT /containers/{id}/archive."""

    def __init__(self, kit: Kit, rootfs: Rootfs) -> None:
        self._kit = kit
        self._rootfs = rootfs
        self._pool = Pool("archive", THREADS)

    def close(self) -> None:
        self._pool.close()

    async def stat(self, ref: str, path: str) -> PathStat:
        """What is at `path`. Raises NotFound, InvalidArgument (a file that was asserted to be a directory)."""
        container = self._kit.store.get(ref)
        place = Place.parse(path)
        async with self._view(container) as view:
            return await self._pool.run(_look, view.root, place, ref)

    async def get(self, ref: str, path: str) -> tuple[PathStat, AsyncGenerator[bytes, None]]:
        """What is at `path`, and a tar of it. Raises as `stat`."""
        container = self._kit.store.get(ref)
        place = Place.parse(path)
        async with contextlib.AsyncExitStack() as stack:
            view = await stack.enter_async_context(self._view(container))
            found = await self._pool.run(_look, view.root, place, ref)
            with _translated(place, ref):  # it may go away while we look
                start = await self._pool.run(_real, view.root, place)
                tar = Tree(view.root, start, place.name).pieces()
                first = await self._pool.run(next, tar)
            pieces = self._pieces(container, first, tar, stack.pop_all())
        await anext(pieces)  # the view is the generator's from here on, however early the client leaves
        return found, pieces

    async def _pieces(
        self, container: Container, first: bytes, rest: Iterator[bytes], stack: contextlib.AsyncExitStack
    ) -> AsyncGenerator[bytes, None]:
        async with stack:
            yield b""
            yield first
            while piece := await self._pool.run(next, rest, b""):
                yield piece
        self._kit.events.publish("container", "archive-path", container.id, container.attributes())

    async def put(
        self, ref: str, path: str, body: AsyncIterator[bytes], *, keep_kinds: bool = False, as_user: bool = False
    ) -> None:
        """Unpack a tar (it may be compressed) into the directory `path`.

        Args:
            keep_kinds: no directory is replaced by something else, nor the other way round.
            as_user: everything belongs to the user the container runs as.

        Raises: NotFound, InvalidArgument (no directory, a bad archive), Forbidden (read-only).
        """
        container = self._kit.store.get(ref)
        place = Place.parse(path)
        source = _Body(body)
        async with self._view(container) as view:
            try:
                await self._pool.run(self._unpack, view.root, place, container.record, ref, source, keep_kinds, as_user)
            finally:
                source.over = True
        self._kit.events.publish("container", "extract-to-dir", container.id, container.attributes())

    def _unpack(
        self,
        root: int,
        place: Place,
        record: ContainerRecord,
        called: str,
        source: _Body,
        keep_kinds: bool,
        as_user: bool,
    ) -> None:
        directory = _open_target(root, place, called)
        try:
            if os.fstatvfs(directory).f_flag & os.ST_RDONLY:
                what = "mounted volume" if _on_volume(place, record) else "container rootfs"
                raise Forbidden(f"{what} is marked read-only")
        finally:
            os.close(directory)
        owner = None
        if as_user and record.config.user:
            here = Path(f"/proc/self/fd/{root}")
            passwd, group = read_text(here, "/etc/passwd"), read_text(here, "/etc/group")
            user = users.resolve(record.config.user, passwd, group, []).user
            owner = (user.uid, user.gid)
        options = ExtractOptions(keep_kinds=keep_kinds, owner=owner, below=place.path or ".")
        with io.BufferedReader(source, FETCH_BYTES) as reader:
            extract(open_plain(cast(io.BufferedReader, reader)), root, options)

    # --- the view ----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _view(self, container: Container) -> AsyncIterator[View]:
        """The container's file system, for the length of a block."""
        kit, record = self._kit, container.record
        image = await kit.images.resolve(record.image_id)
        holder = f"archive-{hex_id()[:12]}"
        async with contextlib.AsyncExitStack() as stack:
            root = await stack.enter_async_context(self._rootfs.mounted(record.id, image.layers))
            sources: dict[str, Path] = {}
            for mount in record.mounts:
                if mount.type == "volume":
                    sources[mount.destination] = await kit.volumes.mount(mount.name, holder)
                    stack.push_async_callback(kit.volumes.unmount, mount.name, holder)
                else:
                    sources[mount.destination] = Path(mount.source)
            await self._fill(container, root, sources)
            view = await self._pool.run(self._open, container.record, root, sources)
            stack.callback(view.close)
            yield view

    async def _fill(self, container: Container, root: Path, sources: dict[str, Path]) -> None:
        """New volumes get what the image has at their places, as at a first start."""
        if not any(mount.copy_up for mount in container.record.mounts):
            return
        async with container.lock:
            for mount in container.record.mounts:
                if mount.copy_up:
                    await self._pool.run(copy_up, root, mount.destination, sources[mount.destination])
            await self._kit.store.save(container, mounts=[mount.filled() for mount in container.record.mounts])

    def _open(self, record: ContainerRecord, root: Path, sources: dict[str, Path]) -> View:
        directory = self._kit.layout.directory(record.id)
        grafts = [
            Graft(f"/etc/{name}", directory / name, readonly=record.host_config.readonly_rootfs)
            for name in _NETWORK_FILES
            if (directory / name).exists()
        ]
        for mount in record.mounts:
            source = sources[mount.destination]
            if not source.exists():
                continue
            if source.is_dir() and not record.started_ns:
                make_directories(root, mount.destination)
            grafts.append(Graft(mount.destination, source, readonly=not mount.rw))
        return open_view(root, grafts, readonly=record.host_config.readonly_rootfs)


@dataclass(frozen=True)
class Place:
    """A path of a request: relative to the root, without `.`, `..` and doubled slashes, and what its end asserted."""

    path: str
    """"" is the root."""
    directory: bool
    """It ended in `/` or `/.`."""
    contents: bool
    """It ended in `/.`: the directory's contents are meant."""

    @classmethod
    def parse(cls, text: str) -> Place:
        """Raises InvalidArgument for an empty path."""
        if not text:
            raise InvalidArgument("bad parameter: path cannot be empty")
        if "\0" in text:
            raise InvalidArgument("bad parameter: path can't contain NUL")
        path = posixpath.normpath("/" + text.lstrip("/")).lstrip("/")
        contents = text == "." or text.endswith("/.")
        return cls(path, contents or text.endswith("/") or not path, contents)

    @property
    def name(self) -> str:
        """What the resource is called in the archive."""
        return "." if self.contents else posixpath.basename(self.path) or "/"


def _look(root: int, place: Place, called: str) -> PathStat:
    with _translated(place, called):
        fd = open_in_root(root, place.path or ".", os.O_PATH | (0 if place.directory else os.O_NOFOLLOW))
    try:
        info = os.fstat(fd)
        if place.directory and not stat.S_ISDIR(info.st_mode):
            raise InvalidArgument(f"not a directory: {place.path}")
        target = ""
        if stat.S_ISLNK(info.st_mode):
            target = _target(root, place.path, os.readlink("", dir_fd=fd))
    finally:
        os.close(fd)
    return PathStat(
        name=place.name,
        size=info.st_size,
        mode=go_mode(info.st_mode),
        mtime=rfc3339nano(info.st_mtime_ns),
        link_target=target,
    )


def _real(root: int, place: Place) -> str:
    """The place without a link at its end, if its end asserts a directory."""
    if not place.directory:
        return place.path
    fd = open_directory(root, place.path or ".")
    try:
        return os.readlink(f"/proc/self/fd/{fd}").lstrip("/")
    finally:
        os.close(fd)


def _target(root: int, path: str, link: str) -> str:
    """Where a link leads in the end, as a path of the container; what the link says if nothing is there."""
    try:
        fd = open_in_root(root, path, os.O_PATH)
    except OSError:
        return posixpath.normpath(posixpath.join("/", posixpath.dirname(path), link))
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _open_target(root: int, place: Place, called: str) -> int:
    """The directory to extract into."""
    with _translated(place, called):
        fd = open_in_root(root, place.path or ".", os.O_PATH)
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidArgument(f"extraction point is not a directory: /{place.path}")
    return fd


@contextlib.contextmanager
def _translated(place: Place, called: str) -> Iterator[None]:
    """`called`: the container as the client named it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _MISSING:
            raise
        raise NotFound(f"Could not find the file /{place.path} in container {called}") from None


def _on_volume(place: Place, record: ContainerRecord) -> bool:
    path = f"/{place.path}/"
    return any(path.startswith(f"{mount.destination}/") for mount in record.mounts)


def go_mode(mode: int) -> int:
    """st_mode as the stat header has it: permissions below, the kind in the high bits (note A20)."""
    result = stat.S_IMODE(mode) & 0o777 | _GO_KINDS.get(stat.S_IFMT(mode), 0)
    for bit, shown in ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20)):
        result |= shown if mode & bit else 0
    return result


class _Body(io.RawIOBase):
    """A request's body as a blocking file: a thread reads it, the event loop fetches it."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self._loop = asyncio.get_running_loop()
        self._rest = memoryview(b"")
        self._ahead: Future[bytes] | None = None
        self.over = False
        """Nobody waits for the reader any more."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(self._next())
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken

    def _next(self) -> bytes:
        waiting = self._ahead or asyncio.run_coroutine_threadsafe(self._fetch(), self._loop)
        while True:
            try:
                data = waiting.result(CLIENT_CHECK_S)
                break
            except TimeoutError:
                if self.over:
                    waiting.cancel()
                    raise Cancelled("the client went away") from None
        # The next piece arrives while this one is unpacked.
        self._ahead = asyncio.run_coroutine_threadsafe(self._fetch(), self._loop) if data else None
        return data

    async def _fetch(self) -> bytes:
        """Some of the body, in pieces worth a change of thread; `b""` at its end."""
        pieces: list[bytes] = []
        size = 0
        async for data in self._body:
            pieces.append(data)
            size += len(data)
            if size >= FETCH_BYTES:
                break
        return b"".join(pieces)

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()
        super().close()
