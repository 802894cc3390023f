"""Unpack a tar stream below a directory, from an archive nobody trusts.

Invariant: nothing is created, changed, linked to or read outside the root, whatever the archive says. Parents are
opened by openat2(RESOLVE_IN_ROOT), entries are made in them by one name component and never followed, hard links go
through the same resolver. With `whiteouts`, AUFS-style deletion marks (v1.24 "Image tarball format") become
overlayfs's own: `.wh.NAME` a 0:0 character device, `.wh..wh..opq` the opaque attribute.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass

from api.errors import InvalidArgument
from worker.engine.images import limits, tarstream
from worker.engine.images.tarstream import Member, Readable, TarReader
from worker.engine.syscalls.openat2 import open_directory
from worker.engine.syscalls.tree import chmod_at, remove_at, write_all

_WHITEOUT = ".wh."
_WHITEOUT_META = ".wh..wh."
_OPAQUE = ".wh..wh..opq"
_OVERLAY_XATTR = "trusted.overlay."
_TYPES = {tarstream.CHARACTER: stat.S_IFCHR, tarstream.BLOCK_DEVICE: stat.S_IFBLK, tarstream.FIFO: stat.S_IFIFO}


@dataclass(frozen=True)
class ExtractOptions:
    """How to unpack."""

    whiteouts: bool = False
    """The archive is an image layer: deletion marks are turned into overlayfs's, and its root has attributes. Of any
    other archive the root is a directory that is there, which stays as it is."""
    owner: tuple[int, int] | None = None
    """Everything belongs to this (uid, gid), whatever the archive says."""
    keep_kinds: bool = False
    """A directory is never replaced by something else, nor the other way round (`noOverwriteDirNonDir`)."""
    below: str = ""
    """A path inside the root that everything goes below; links still resolve in the root. That directory itself is
    not changed."""


@dataclass
class Extracted:
    """What an extraction did."""

    bytes: int = 0
    """Sum of the sizes of files and symbolic links."""
    members: int = 0


def clean_path(path: str, member: str) -> str:
    """A member's path without `.`, `..`, doubled and leading slashes; "" is the root itself.

    Raises InvalidArgument when it climbs out of the archive's root.
    """
    parts: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            if not parts:
                raise InvalidArgument(f"invalid archive: {member!r} points outside of its root")
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def extract(source: Readable, root: int, options: ExtractOptions = ExtractOptions()) -> Extracted:
    """Unpack `source` (an uncompressed tar) below the directory descriptor `root`.

    Raises:
        InvalidArgument: the archive is malformed or hostile, naming the member; what was written stays below `root`.
    """
    return _Extraction(root, options).run(TarReader(source))


def _is_whiteout(there: os.stat_result) -> bool:
    return stat.S_ISCHR(there.st_mode) and there.st_rdev == 0


class _Extraction:
    def __init__(self, root: int, options: ExtractOptions) -> None:
        self._root = root
        self._options = options
        self._parent_path: str | None = None
        self._parent = -1
        self._directory_times: dict[str, int] = {}
        self._done = Extracted()

    def run(self, reader: TarReader) -> Extracted:
        try:
            for member in reader:
                try:
                    self._member(member, reader)
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                        raise
                    reason = error.strerror or str(error)
                    raise InvalidArgument(f"failed to extract {member.name!r}: {reason}") from error
                self._done.members += 1
            self._set_directory_times()
        finally:
            self._forget_parent()
        return self._done

    # --- where ---

    def _forget_parent(self) -> None:
        if self._parent >= 0:
            os.close(self._parent)
        self._parent, self._parent_path = -1, None

    def _enter(self, path: str) -> int:
        """Descriptor of the directory `path` below the root, made (0755) where it is missing."""
        if path != self._parent_path:
            fd = self._open_or_make(path)
            self._forget_parent()
            self._parent, self._parent_path = fd, path
        return self._parent

    def _open_or_make(self, path: str) -> int:
        try:
            return open_directory(self._root, path)
        except FileNotFoundError:
            if not path:
                raise
        # From the top down, one level a step: a recursion would be as deep as a hostile path is long.
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            above, name = "/".join(parts[: depth - 1]), parts[depth - 1]
            fd = open_directory(self._root, above)
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=fd)
                    chmod_at(fd, name, 0o755)
                    if self._options.owner:
                        os.chown(name, *self._options.owner, dir_fd=fd, follow_symlinks=False)
            finally:
                os.close(fd)
        return open_directory(self._root, path)

    # --- what ---

    def _member(self, member: Member, reader: TarReader) -> None:
        path = clean_path(member.name, member.name)
        if not path:
            if member.kind == tarstream.DIRECTORY and self._options.whiteouts:
                self._attributes_of_root(member)
            return
        path = self._placed(path)
        above, _, name = path.rpartition("/")
        if self._options.whiteouts and name.startswith(_WHITEOUT):
            self._whiteout(above, name)
            return
        if self._options.whiteouts and any(part.startswith(_WHITEOUT_META) for part in path.split("/")):
            return  # AUFS's own bookkeeping, not content
        parent = self._enter(above)
        there = self._stat(parent, name)
        if there is not None and not self._make_room(parent, name, member, there):
            self._attributes(parent, name, member, path)
            return
        if member.kind == tarstream.FILE:
            self._file(parent, name, member, reader)
            return
        if member.kind == tarstream.HARD_LINK:
            self._hard_link(parent, name, member)
            return
        if member.kind == tarstream.DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=parent)
            if self._options.whiteouts and there is not None and _is_whiteout(there):
                self._make_opaque(parent, name)  # the mark came before the directory that replaces what it hid
        elif member.kind == tarstream.SYMLINK:
            if not member.link:
                raise InvalidArgument(f"invalid archive: symbolic link {member.name!r} has no target")
            os.symlink(member.link, name, dir_fd=parent)
            self._done.bytes += len(os.fsencode(member.link))
        else:
            device = os.makedev(member.major, member.minor)
            os.mknod(name, _TYPES[member.kind] | 0o600, device, dir_fd=parent)
        self._attributes(parent, name, member, path)

    def _placed(self, path: str) -> str:
        """A member's path, from the root."""
        return f"{self._options.below}/{path}" if self._options.below else path

    @staticmethod
    def _stat(parent: int, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _make_room(self, parent: int, name: str, member: Member, there: os.stat_result) -> bool:
        """Remove what is in the way; False when a directory is there already and one is wanted."""
        was_directory, is_directory = stat.S_ISDIR(there.st_mode), member.kind == tarstream.DIRECTORY
        if was_directory and is_directory:
            return False
        if self._options.keep_kinds and was_directory != is_directory:
            kinds = ("directory", "non-directory") if was_directory else ("non-directory", "directory")
            raise InvalidArgument(f"cannot overwrite {kinds[0]} {member.name.rstrip('/')!r} with {kinds[1]}")
        if member.kind == tarstream.HARD_LINK and self._is_same_file(member, there):
            return True
        remove_at(parent, name)
        return True

    def _is_same_file(self, member: Member, there: os.stat_result) -> bool:
        """A hard link to itself: removing it first would remove its target."""
        above, _, name = self._placed(clean_path(member.link, member.name)).rpartition("/")
        try:
            fd = open_directory(self._root, above)
        except OSError:
            return False
        try:
            target = os.stat(name or ".", dir_fd=fd, follow_symlinks=False)
        except OSError:
            return False
        finally:
            os.close(fd)
        return (target.st_dev, target.st_ino) == (there.st_dev, there.st_ino)

    def _file(self, parent: int, name: str, member: Member, reader: TarReader) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            while data := reader.read(limits.CHUNK):
                write_all(fd, data)
                self._done.bytes += len(data)
            os.fchown(fd, *self._owner(member))
            os.fchmod(fd, member.mode)
            if member.xattrs:
                self._xattrs(f"/proc/self/fd/{parent}/{name}", member)
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(fd)

    def _hard_link(self, parent: int, name: str, member: Member) -> None:
        target = clean_path(member.link, member.name)
        above, _, base = self._placed(target).rpartition("/")
        if not target:
            raise InvalidArgument(f"invalid archive: hard link {member.name!r} has no target")
        fd = open_directory(self._root, above)
        try:
            with contextlib.suppress(FileExistsError):  # a link to itself
                os.link(base, name, src_dir_fd=fd, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(fd)

    def _whiteout(self, above: str, name: str) -> None:
        parent = self._enter(above)
        if name == _OPAQUE:
            os.setxattr(parent, _OVERLAY_XATTR + "opaque", b"y")
            return
        if name.startswith(_WHITEOUT_META):
            return
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in ("", ".", ".."):
            raise InvalidArgument(f"invalid whiteout {name!r} in {above!r}")
        # An entry of this same layer wins over the mark, which hides only what lies in the layers below.
        try:
            there = os.stat(hidden, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
            return
        if stat.S_ISDIR(there.st_mode):
            self._make_opaque(parent, hidden)

    def _make_opaque(self, parent: int, name: str) -> None:
        os.setxattr(f"/proc/self/fd/{parent}/{name}", _OVERLAY_XATTR + "opaque", b"y", follow_symlinks=False)

    # --- attributes ---

    def _owner(self, member: Member) -> tuple[int, int]:
        return self._options.owner or (member.uid, member.gid)

    def _attributes(self, parent: int, name: str, member: Member, path: str) -> None:
        os.chown(name, *self._owner(member), dir_fd=parent, follow_symlinks=False)
        if member.kind != tarstream.SYMLINK:
            chmod_at(parent, name, member.mode)
        if member.xattrs:
            self._xattrs(f"/proc/self/fd/{parent}/{name}", member)
        if member.kind == tarstream.DIRECTORY:
            self._directory_times[path] = member.mtime_ns  # its members still change it
        else:
            os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _attributes_of_root(self, member: Member) -> None:
        os.fchown(self._root, *self._owner(member))
        os.fchmod(self._root, member.mode)
        if member.xattrs:
            self._xattrs(f"/proc/self/fd/{self._root}/.", member)
        self._directory_times[""] = member.mtime_ns

    def _xattrs(self, path: str, member: Member) -> None:
        for key, value in member.xattrs.items():
            if key.startswith(_OVERLAY_XATTR):
                continue  # would let an archive forge whiteouts and redirects
            try:
                os.setxattr(path, key, value, follow_symlinks=False)
            except OSError as error:
                # As other engines do: an attribute the file system can't keep is no reason to refuse the archive.
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise

    def _set_directory_times(self) -> None:
        self._forget_parent()
        for path, mtime_ns in self._directory_times.items():
            try:
                fd = open_directory(self._root, path)
            except OSError:
                continue  # replaced by a later member
            try:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)
