"""Unpacked layers: `layers/<chain id>/diff`, the lower directories of overlays.

Invariant: a directory under a chain id is a whole, unpacked layer: it is filled under a temporary name and renamed
last; removal renames first. A chain id names a layer together with all below it (OCI image spec, "Layer ChainID").
Everything here blocks; callers run it in threads.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from api.errors import InvalidArgument
from worker.engine.images.compression import LayerReader, format_of
from worker.engine.images.extract import ExtractOptions, extract
from worker.engine.syscalls.openat2 import sync_filesystem
from worker.engine.syscalls.tree import remove_tree

_TEMPORARY = "tmp-"


def chain_id(parent: str, diff_id: str) -> str:
    """The chain id of a layer on top of chain `parent` ("" for the lowest)."""
    if not parent:
        return diff_id
    return "sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest()


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The chain ids of an image's layers, lowest first."""
    chains: list[str] = []
    for diff_id in diff_ids:
        chains.append(chain_id(chains[-1] if chains else "", diff_id))
    return chains


@dataclass(frozen=True)
class Unpacked:
    """The content of a layer under a temporary name: to be placed or discarded."""

    home: Path
    diff_id: str
    size: int
    """Bytes in files."""
    tar_size: int
    """Bytes of the uncompressed archive."""


class LayerStore:
    """All unpacked layers below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def prepare(self) -> None:
        """Make the directory; remove what a crash left half-made or half-removed."""
        self._root.mkdir(mode=0o710, parents=True, exist_ok=True)
        for name in os.listdir(self._root):
            if name.startswith(_TEMPORARY):
                remove_tree(self._root / name)

    def _home(self, chain: str) -> Path:
        return self._root / chain.removeprefix("sha256:")

    def path(self, chain: str) -> Path:
        """The lower directory of a layer."""
        return self._home(chain) / "diff"

    @property
    def root(self) -> Path:
        """The directory of all layers."""
        return self._root

    def has(self, chain: str) -> bool:
        """True when the layer is there, whole."""
        return self.path(chain).is_dir()

    def all(self) -> list[str]:
        """The chain ids of all layers."""
        return ["sha256:" + name for name in os.listdir(self._root) if not name.startswith(_TEMPORARY)]

    def _aside(self) -> Path:
        return self._root / (_TEMPORARY + secrets.token_hex(8))

    def unpack(
        self,
        blob: Path,
        expected: str,
        stop: threading.Event,
        progress: Callable[[int], None] | None = None,
    ) -> Unpacked:
        """Unpack a blob of the blob store, whose name is its digest.

        Args:
            expected: the diff id the image's configuration names; "" takes what comes.
            stop: when set, the work ends soon with Cancelled.
            progress: called with the number of compressed bytes read so far, from this thread.

        Raises: InvalidArgument for a damaged, hostile or wrong archive; nothing is left then.
        """
        # The digest of a blob that is not compressed is known: it is the blob's own.
        known = "" if format_of(blob) else f"sha256:{blob.name}"
        home = self._aside()
        diff = home / "diff"
        diff.mkdir(parents=True)
        diff.chmod(0o755)
        try:
            with open(blob, "rb") as file:
                reader = LayerReader(file, stop, progress, hashing=not known)
                root = os.open(diff, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    done = extract(reader, root, ExtractOptions(whiteouts=True))
                finally:
                    os.close(root)
                diff_id = known or reader.finish()
                tar_size = os.fstat(file.fileno()).st_size if known else reader.size
            if expected and diff_id != expected:
                raise InvalidArgument(f"layer has diff id {diff_id}, but the image's configuration says {expected}")
        except BaseException:
            remove_tree(home)
            raise
        return Unpacked(home, diff_id, done.bytes, tar_size)

    def take(self, diff: Path, diff_id: str, size: int, tar_size: int) -> Unpacked:
        """Make a directory of the same file system, in overlayfs's form, the content of a layer."""
        home = self._aside()
        home.mkdir()
        try:
            os.rename(diff, home / "diff")
        except OSError:
            home.rmdir()
            raise
        return Unpacked(home, diff_id, size, tar_size)

    def place(self, unpacked: Unpacked, chain: str) -> None:
        """Give a layer its name."""
        try:
            os.rename(unpacked.home, self._home(chain))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            remove_tree(unpacked.home)  # the same layer came another way

    def sync(self) -> None:
        """All layers that were unpacked are on disk when this returns."""
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_filesystem(fd)
        finally:
            os.close(fd)

    def set_aside(self, chain: str) -> Path | None:
        """Take a layer out of sight, quickly; the path is for `remove_tree` then. None if it is not there."""
        aside = self._aside()
        try:
            os.rename(self._home(chain), aside)
        except FileNotFoundError:
            return None
        return aside
