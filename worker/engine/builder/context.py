"""The build context: the files that COPY and ADD may take, and the Dockerfile, wherever they come from.

Invariant: a context is unpacked by our own extraction into a directory of its own; nothing in it is opened but below
that directory.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from api.errors import InvalidArgument, Upstream
from base.offload import Pool
from worker.engine.builder import git
from worker.engine.builder.downloads import download, is_web_address
from worker.engine.builder.globs import Ignored
from worker.engine.images.compression import LayerReader
from worker.engine.images.extract import extract
from worker.engine.images.intake import incoming
from worker.engine.images.tarstream import TarReader
from worker.engine.syscalls.openat2 import open_directory, open_in_root

DEFAULT_DOCKERFILE = "Dockerfile"
IGNORE_FILE = ".dockerignore"
DOCKERFILE_BYTES_MAX = 8 << 20


class Directories(Protocol):
    """Empty directories for a while (`workspace.Workspace`)."""

    def directory(self) -> contextlib.AbstractAsyncContextManager[Path]: ...


@dataclass(frozen=True)
class Context:
    """An unpacked context."""

    root: int
    """Descriptor of its directory."""
    dockerfile: str
    """The text."""


@contextlib.asynccontextmanager
async def open_context(
    remote: str, body: AsyncIterator[bytes], dockerfile: str, directories: Directories, disk: Pool
) -> AsyncIterator[Context]:
    """The context for the length of a block.

    Args:
        remote: an address; "" takes the body, an archive in any of Docker's compressions.
        dockerfile: its path in the context; "" is `Dockerfile`.

    Raises: InvalidArgument (archive, Dockerfile), NotSupported, Upstream.
    """
    async with directories.directory() as home:
        files, spool = home / "files", home / "spool"
        await disk.run(files.mkdir)
        text: str | None = None
        if git.is_git(remote):
            source = git.parse(remote)
            await git.fetch(source, files)
            files = await disk.run(_inside, files, source.directory)
        elif remote:
            await _fetch(remote, spool, disk)
            if await disk.run(_is_archive, spool):
                await disk.run(_unpack, spool, files)
            else:
                text = await disk.run(_text_of, spool, remote)
        else:
            await _receive(body, files)
        root = os.open(files, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if text is None:
                text = await disk.run(_take_dockerfile, root, dockerfile)
            yield Context(root, text)
        finally:
            os.close(root)


async def _receive(body: AsyncIterator[bytes], files: Path) -> None:
    """Unpack an archive while it comes in."""
    async with incoming(body, "build-context") as came:
        await came.thread.run(_extract, came.source, files)


async def _fetch(remote: str, spool: Path, disk: Pool) -> None:
    if not is_web_address(remote):
        raise InvalidArgument(f"remoteURL ({remote}) could not be recognized as URL")
    try:
        await download(remote, spool, disk)
    except Upstream as error:
        raise Upstream(f"error downloading remote context {remote}: {error.message}") from error


def _is_archive(path: Path) -> bool:
    with open(path, "rb") as file:
        try:
            return next(iter(TarReader(LayerReader(file, threading.Event(), hashing=False))), None) is not None
        except InvalidArgument:
            return False


def _text_of(path: Path, remote: str) -> str:
    with open(path, "rb") as file:
        return _decoded(file.read(DOCKERFILE_BYTES_MAX + 1), remote)


def _unpack(spool: Path, files: Path) -> None:
    with open(spool, "rb") as file:
        _extract(file, files)
    spool.unlink()


def _extract(source: BufferedReader, files: Path) -> None:
    root = os.open(files, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        extract(LayerReader(source, threading.Event(), hashing=False), root)
    finally:
        os.close(root)


def _inside(files: Path, directory: str) -> Path:
    """A directory of a repository, by a path without links. Raises InvalidArgument."""
    place = files
    for part in [part for part in directory.split("/") if part and part != "."]:
        place = place / part
        if part == ".." or place.is_symlink() or not place.is_dir():
            raise InvalidArgument(f"invalid context directory in the repository: {directory}")
    return place


def _take_dockerfile(root: int, name: str) -> str:
    """The Dockerfile's text. What .dockerignore says of it and of itself is done to the context."""
    path = name or DEFAULT_DOCKERFILE
    try:
        text = _read(root, path)
        if text is None and not name:
            path = DEFAULT_DOCKERFILE.lower()
            text = _read(root, path)
    except OSError as error:
        raise InvalidArgument(f"failed to read dockerfile {path}: {error.strerror}") from error
    if text is None:
        raise InvalidArgument(f"Cannot locate specified Dockerfile: {name or DEFAULT_DOCKERFILE}")
    if not text:
        raise InvalidArgument(f"the Dockerfile ({path}) cannot be empty")
    ignore = _read(root, IGNORE_FILE)
    if ignore is not None:
        ignored = Ignored(ignore.splitlines())
        for each in (path.strip("/"), IGNORE_FILE):
            if ignored(each):
                _remove(root, each)
    return text


def _read(root: int, path: str) -> str | None:
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(fd, "rb") as file:
        return _decoded(file.read(DOCKERFILE_BYTES_MAX + 1), path)


def _decoded(data: bytes, name: str) -> str:
    if len(data) > DOCKERFILE_BYTES_MAX:
        raise InvalidArgument(f"{name} is larger than {DOCKERFILE_BYTES_MAX} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidArgument(f"{name} is not a text file") from None


def _remove(root: int, path: str) -> None:
    above, _, name = path.rpartition("/")
    with contextlib.suppress(OSError):
        directory = open_directory(root, above)
        try:
            os.unlink(name, dir_fd=directory)
        finally:
            os.close(directory)
