"""COPY and ADD: what to take, where it goes, and taking it there. Blocking.

Invariant: every source is reached within the context (or the other image), every destination within the new root:
all paths are resolved by openat2 as if those directories were `/`. Owners are root unless the instruction says.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from api.errors import InvalidArgument
from worker.engine.builder.globs import component_matcher, has_wildcards
from worker.engine.images.compression import LayerReader
from worker.engine.images.extract import extract
from worker.engine.images.tarstream import TarReader
from worker.engine.syscalls.openat2 import open_directory, open_in_root
from worker.engine.syscalls.tree import chmod_at, copy_xattrs, remove_at, write_all

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """One thing to copy."""

    root: int
    """Descriptor of the directory it lies in, as if that were `/`."""
    path: str
    """Relative; "" is the root itself."""
    is_directory: bool
    digest: str
    """`file:<hash>` or `dir:<hash>`, of its path, too, as with dockerd."""
    name: str
    """What it is called at a destination that is a directory."""
    unpack: bool = False
    """Unpack it if it is an archive."""


def find_sources(root: int, text: str, *, what: str, unpack: bool, from_context: bool) -> list[Source]:
    """The things a source path of an instruction stands for.

    Args:
        what: COPY or ADD, for messages.
        from_context: the path may not climb out of the context (in an image it can't anyway).

    Raises: InvalidArgument naming the path.
    """
    cleaned = posixpath.normpath(text.lstrip("/") or ".")
    if from_context and (cleaned == ".." or cleaned.startswith("../")):
        raise InvalidArgument(f"{what} failed: forbidden path outside the build context: {text} ()")
    if has_wildcards(cleaned):
        paths = sorted(_matching(root, "", cleaned.split("/")))
    else:
        paths = ["" if cleaned == "." else cleaned]
    return [_source(root, path, what, unpack=unpack, from_context=from_context) for path in paths]


def _matching(root: int, above: str, parts: Sequence[str]) -> Iterator[str]:
    try:
        directory = open_directory(root, above)
    except OSError:
        return
    try:
        names = os.listdir(directory)
    finally:
        os.close(directory)
    matches = component_matcher(parts[0])
    for name in names:
        if not matches(name):
            continue
        path = posixpath.join(above, name)
        if len(parts) == 1:
            yield path
        else:
            yield from _matching(root, path, parts[1:])


def _source(root: int, path: str, what: str, *, unpack: bool, from_context: bool) -> Source:
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) and from_context:
            reason = "file not found in build context or excluded by .dockerignore"
            raise InvalidArgument(f"{what} failed: {reason}: stat {path}: file does not exist") from None
        raise InvalidArgument(f"{what} failed: stat {path}: {_reason(error)}") from None
    try:
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            hasher = hashlib.sha256(os.fsencode(f"dir\0{path}\0"))
            for line in _directory_digest(fd):
                hasher.update(line)
            return Source(root, path, True, f"dir:{hasher.hexdigest()}", posixpath.basename(path))
        if not stat.S_ISREG(info.st_mode):
            raise InvalidArgument(f"{what} failed: {path} is neither a file nor a directory")
        about = os.fsencode(f"file\0{path}\0{stat.S_IMODE(info.st_mode):o}\0")
        digest = hashlib.sha256(about + _content_digest(fd)).hexdigest()
        return Source(root, path, False, f"file:{digest}", posixpath.basename(path), unpack)
    finally:
        os.close(fd)


def _reason(error: OSError) -> str:
    return "file does not exist" if error.errno in (errno.ENOENT, errno.ENOTDIR) else (error.strerror or "").lower()


def _content_digest(fd: int) -> bytes:
    hasher = hashlib.sha256()
    while data := os.read(fd, _CHUNK):
        hasher.update(data)
    return hasher.digest()


def _directory_digest(top: int) -> Iterator[bytes]:
    """What distinguishes a tree: names, kinds, modes, link targets, contents; not times and owners."""
    pending = [""]  # a list, not recursion: a hostile context may be thousands of directories deep
    while pending:
        where = pending.pop()
        fd = open_directory(top, where)
        below: list[str] = []
        try:
            for name in sorted(os.listdir(fd)):
                path = posixpath.join(where, name)
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                yield os.fsencode(f"{path}\0{info.st_mode:o}\0")
                if stat.S_ISDIR(info.st_mode):
                    below.append(path)
                else:
                    yield _entry_digest(fd, name, info)
        finally:
            os.close(fd)
        pending += reversed(below)


def _entry_digest(directory: int, name: str, info: os.stat_result) -> bytes:
    if stat.S_ISLNK(info.st_mode):
        return os.fsencode(os.readlink(name, dir_fd=directory)) + b"\0"
    if not stat.S_ISREG(info.st_mode):
        return str(info.st_rdev).encode() + b"\0"
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        return _content_digest(file)
    finally:
        os.close(file)


def combined_digest(sources: Sequence[Source]) -> str:
    """One word for all that is copied: that of the single source, or `multi:<hash>`."""
    if len(sources) == 1:
        return sources[0].digest
    joined = ",".join(source.digest for source in sources)
    return "multi:" + hashlib.sha256(joined.encode()).hexdigest()


# --- taking it there -------------------------------------------------------------------------------------------


def copy(source: Source, root: int, destination: str, owner: tuple[int, int]) -> None:
    """Copy one source to `destination` (absolute; with a slash at its end it is a directory) below `root`.

    Raises: InvalidArgument naming the path for what can't be put there.
    """
    try:
        if source.is_directory:
            _copy_into_directory(source, root, destination, owner)
        elif source.unpack and _is_archive(source):
            _unpack(source, root, destination)
        else:
            _copy_file_to(source, root, destination, owner)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        raise InvalidArgument(f"failed to copy {source.path!r} to {destination!r}: {_reason(error)}") from error


def make_directories(root: int, path: str, owner: tuple[int, int]) -> None:
    """`mkdir -p` (0755) below the root; links on the way are followed inside it. Raises InvalidArgument for a file
    in the way, OSError."""
    done = ""
    for name in [part for part in path.split("/") if part]:
        above, done = done, f"{done}/{name}"
        try:
            os.close(open_in_root(root, done, os.O_PATH | os.O_DIRECTORY))
            continue
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            raise InvalidArgument(f"cannot make directory {done}: a file is in the way") from None
        parent = open_directory(root, above or "/")
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
            chmod_at(parent, name, 0o755)
            os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)


def is_directory(root: int, path: str) -> bool:
    """Whether a path below the root is a directory, links followed."""
    try:
        os.close(open_in_root(root, path, os.O_PATH | os.O_DIRECTORY))
    except OSError:
        return False
    return True


def _copy_into_directory(source: Source, root: int, destination: str, owner: tuple[int, int]) -> None:
    existed = is_directory(root, destination)
    make_directories(root, destination, (0, 0))
    origin = open_directory(source.root, source.path)
    try:
        target = open_directory(root, destination)
        try:
            if not existed:
                os.fchown(target, *owner)
            _merge(origin, target, owner)
        finally:
            os.close(target)
    finally:
        os.close(origin)


def _copy_file_to(source: Source, root: int, destination: str, owner: tuple[int, int]) -> None:
    if destination.endswith("/") or is_directory(root, destination):
        destination = posixpath.join(destination, source.name)
    above, name = posixpath.split(_followed(root, destination))
    make_directories(root, above, owner)
    above_source, name_source = posixpath.split(_followed(source.root, "/" + source.path))
    origin = open_directory(source.root, above_source)
    try:
        target = open_directory(root, above)
        try:
            _copy_entry(origin, name_source, target, name, owner)
        finally:
            os.close(target)
    finally:
        os.close(origin)


def _followed(root: int, path: str) -> str:
    """The path with links at its end followed, within the root."""
    for _ in range(40):
        above, name = posixpath.split(path.rstrip("/"))
        try:
            directory = open_directory(root, above)
        except OSError:
            return path
        try:
            link = os.readlink(name, dir_fd=directory)
        except OSError:
            return path
        finally:
            os.close(directory)
        path = "/" + posixpath.normpath(posixpath.join(above, link)).lstrip("/")
    raise OSError(errno.ELOOP, "too many levels of symbolic links", path)


def _merge(origin: int, target: int, owner: tuple[int, int]) -> None:
    """Copy what is in one directory into another, which may have some of it already."""
    pending = [""]
    made: list[tuple[str, os.stat_result]] = []
    while pending:
        where = pending.pop()
        source = open_directory(origin, where)
        try:
            into = open_directory(target, where)
            try:
                for name in sorted(os.listdir(source)):
                    info = os.stat(name, dir_fd=source, follow_symlinks=False)
                    if not stat.S_ISDIR(info.st_mode):
                        _copy_entry(source, name, into, name, owner)
                        continue
                    _make_place(into, name)
                    made.append((posixpath.join(where, name), info))
                    pending.append(made[-1][0])
            finally:
                os.close(into)
        finally:
            os.close(source)
    for path, info in reversed(made):  # their content changed their times
        fd = open_directory(target, path)
        try:
            os.fchown(fd, *owner)
            os.fchmod(fd, stat.S_IMODE(info.st_mode))
            os.utime(fd, ns=(info.st_mtime_ns, info.st_mtime_ns))
        finally:
            os.close(fd)


def _make_place(target: int, name: str) -> None:
    """A directory of this name, in place of anything else."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=target, follow_symlinks=False).st_mode):
            return
        os.unlink(name, dir_fd=target)
    os.mkdir(name, 0o700, dir_fd=target)


def _copy_entry(origin: int, name: str, target: int, new: str, owner: tuple[int, int]) -> None:
    info = os.stat(name, dir_fd=origin, follow_symlinks=False)
    remove_at(target, new)  # a directory too, as dockerd does
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(name, dir_fd=origin), new, dir_fd=target)
    elif stat.S_ISREG(info.st_mode):
        _copy_content(origin, name, target, new)
    else:
        os.mknod(new, stat.S_IFMT(info.st_mode) | 0o600, info.st_rdev, dir_fd=target)
    os.chown(new, *owner, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        chmod_at(target, new, stat.S_IMODE(info.st_mode))
    copy_xattrs(f"/proc/self/fd/{origin}/{name}", f"/proc/self/fd/{target}/{new}")
    os.utime(new, ns=(info.st_mtime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_content(origin: int, name: str, target: int, new: str) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=origin)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writer = os.open(new, flags, 0o600, dir_fd=target)
        try:
            while data := os.read(reader, _CHUNK):
                write_all(writer, data)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


# --- archives --------------------------------------------------------------------------------------------------


def _is_archive(source: Source) -> bool:
    """Whether the file begins with a tar header, compressed or not."""
    fd = open_in_root(source.root, source.path, os.O_RDONLY)
    with os.fdopen(fd, "rb") as file:
        try:
            return next(iter(TarReader(LayerReader(file, threading.Event(), hashing=False))), None) is not None
        except InvalidArgument:
            return False


def _unpack(source: Source, root: int, destination: str) -> None:
    make_directories(root, destination, (0, 0))
    target = open_directory(root, destination)
    try:
        fd = open_in_root(source.root, source.path, os.O_RDONLY)
        with os.fdopen(fd, "rb") as file:
            extract(LayerReader(file, threading.Event(), hashing=False), target)
    finally:
        os.close(target)
