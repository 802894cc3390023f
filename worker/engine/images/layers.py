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
from worker.engine.images.compression import LayerReader
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
    """A layer that was unpacked."""

    chain_id: str
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

    def has(self, chain: str) -> bool:
        """True when the layer is there, whole."""
        return self.path(chain).is_dir()

    def all(self) -> list[str]:
        """The chain ids of all layers."""
        return ["sha256:" + name for name in os.listdir(self._root) if not name.startswith(_TEMPORARY)]

    def unpack(
        self,
        blob: Path,
        parent: str,
        expected: str,
        stop: threading.Event,
        progress: Callable[[int], None] | None = None,
    ) -> Unpacked:
        """Unpack a blob on top of chain `parent`.

        Args:
            expected: the diff id the image's configuration names; "" takes what comes.
            stop: when set, the work ends soon with Cancelled.
            progress: called with the number of compressed bytes read so far, from this thread.

        Raises: InvalidArgument for a damaged, hostile or wrong archive; nothing is left then.
        """
        home = self._root / (_TEMPORARY + secrets.token_hex(8))
        diff = home / "diff"
        diff.mkdir(parents=True)
        diff.chmod(0o755)
        try:
            with open(blob, "rb") as file:
                reader = LayerReader(file, stop, progress)
                root = os.open(diff, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    done = extract(reader, root, ExtractOptions(whiteouts=True))
                finally:
                    os.close(root)
                diff_id = reader.finish()
            if expected and diff_id != expected:
                raise InvalidArgument(f"layer has diff id {diff_id}, but the image's configuration says {expected}")
            chain = chain_id(parent, diff_id)
            try:
                os.rename(home, self._home(chain))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                remove_tree(home)  # the same layer came another way
        except BaseException:
            remove_tree(home)
            raise
        return Unpacked(chain, diff_id, done.bytes, reader.size)

    def sync(self) -> None:
        """All layers that were unpacked are on disk when this returns."""
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_filesystem(fd)
        finally:
            os.close(fd)

    def set_aside(self, chain: str) -> Path | None:
        """Take a layer out of sight, quickly; the path is for `remove_tree` then. None if it is not there."""
        aside = self._root / (_TEMPORARY + secrets.token_hex(8))
        try:
            os.rename(self._home(chain), aside)
        except FileNotFoundError:
            return None
        return aside
