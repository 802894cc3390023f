"""Making an image of what was written over another: a layer of an upper directory, a configuration, a history entry.

Invariant: an image made here names its parent, and is registered only with all its layers on disk.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from api.errors import Conflict, Internal
from base.clock import Clock, rfc3339nano
from worker.engine.builder.difftar import write_layer
from worker.engine.builder.evaluate import Config
from worker.engine.images.ingestion import Ingestion
from worker.engine.images.manifest import host_architecture
from worker.engine.images.model import HistoryEntry, ImageConfig
from worker.engine.images.names import Reference
from worker.engine.images.store import ImageStore


@dataclass(frozen=True)
class NewImage:
    """What an image is to be."""

    parent: str
    """The image it stands on; "" for none."""
    config: Config
    container_config: Config
    """What the container of the step was, or would have been: the key of the cache."""
    created_by: str
    upper: Path | None = None
    """What was written over the parent, in overlayfs's form; None is nothing."""
    give: bool = False
    """`upper` is no part of a mount, and may be taken away."""
    container: str = ""
    author: str = ""
    comment: str = ""
    references: Sequence[Reference] = ()


class Committer:
    """Makes images in a store."""

    def __init__(self, store: ImageStore, clock: Clock, version: str) -> None:
        self._store = store
        self._clock = clock
        self._version = version

    async def commit(self, wish: NewImage) -> str:
        """Make the image; durable on return. Returns its id.

        Raises: Conflict when the parent was removed meanwhile, OSError. Nothing is left then.
        """
        async with self._store.ingest() as ingestion:
            parent = self._take_parent(ingestion, wish.parent)
            added = wish.upper is not None and await self._add_layer(ingestion, wish.upper, give=wish.give)
            raw = self._document(wish, parent, [layer.diff_id for layer in ingestion.layers], empty=not added)
            return await ingestion.register(raw, wish.references, parent=wish.parent)

    def _take_parent(self, ingestion: Ingestion, parent: str) -> ImageConfig:
        if not parent:
            return ImageConfig()
        config = self._store.index.configs.get(parent)
        if config is None:
            raise Conflict(f"image {parent} was removed while something was built on it")
        for diff_id in config.rootfs.diff_ids:
            if not ingestion.known_layer(diff_id):
                raise Internal(f"layer {diff_id} of image {parent} is missing")
        return config

    async def _add_layer(self, ingestion: Ingestion, upper: Path, *, give: bool) -> bool:
        """False when nothing was written."""
        disk, writer = self._store.disk, self._store.blobs.writer()
        stop = threading.Event()
        try:
            layer = await disk.run(write_layer, upper, writer, stop.is_set)
            if not layer.entries:
                return False
            tar_size = writer.size
            ingestion.pin(writer.digest())
            blob = await disk.run(writer.commit)
        finally:
            stop.set()
            await disk.run(writer.close)
        ready = None
        if give and layer.whole:
            with contextlib.suppress(OSError):  # on another file system: then it is unpacked like any other
                ready = self._store.layers.take(upper, blob, layer.size, tar_size)
        await ingestion.add_layer(blob, blob, ready=ready)
        return True

    def _document(self, wish: NewImage, parent: ImageConfig, diff_ids: list[str], *, empty: bool) -> bytes:
        created = rfc3339nano(self._clock.now_ns())
        entry = HistoryEntry(
            created=created,
            created_by=wish.created_by,
            author=wish.author,
            comment=wish.comment,
            empty_layer=empty,
        )
        document: dict[str, Any] = {
            "architecture": parent.architecture or host_architecture(),
            "author": wish.author,
            "comment": wish.comment,
            "config": wish.config,
            "container": wish.container,
            "container_config": wish.container_config,
            "created": created,
            "docker_version": self._version,
            "history": [*(parent.history or []), entry],
            "os": parent.os or "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "variant": parent.variant,
        }
        history = [{key: value for key, value in msgspec.to_builtins(item).items() if value}
                   for item in document["history"]]  # fmt: skip
        kept = {key: value for key, value in document.items() if value or key in ("config", "rootfs")}
        return msgspec.json.encode({**kept, "history": history})
