"""Building up one image in the store, layer by layer: what pulls, loads, imports and builds have in common.

Invariant: what an ingestion uses is pinned before it is looked for or written, and stays until the ingestion ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from api.errors import InvalidArgument
from worker.engine.images.layers import Unpacked, chain_id
from worker.engine.images.model import LayerRecord, parse_config
from worker.engine.images.names import Reference

if TYPE_CHECKING:
    from worker.engine.images.store import ImageStore

Progress = Callable[[int], None]
"""Told how many compressed bytes were read so far."""


class Ingestion:
    """Builds up one image, layer by layer, lowest first. What it uses is safe from collection until it ends."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self.layers: list[LayerRecord] = []
        self.pinned: list[str] = []

    def pin(self, key: str) -> None:
        """Keep a blob (by digest) or a layer (by chain id) until the ingestion ends."""
        self._store.pins[key] += 1
        self.pinned.append(key)

    async def put(self, data: bytes) -> str:
        """Keep a small blob; returns its digest."""
        self.pin("sha256:" + hashlib.sha256(data).hexdigest())
        return await self._store.disk.run(self._store.blobs.put, data)

    @property
    def chain(self) -> str:
        """Chain id of the layers so far."""
        return self.layers[-1].chain if self.layers else ""

    def known_layer(self, diff_id: str) -> bool:
        """Take the next layer from the store if it is there already."""
        chain = chain_id(self.chain, diff_id)
        record = self._store.index.layers.get(chain)
        if record is None:
            return False
        self.pin(chain)
        self.pin(record.blob)
        self.layers.append(record)
        return True

    async def add_layer(
        self, blob: str, diff_id: str = "", progress: Progress | None = None, ready: Unpacked | None = None
    ) -> LayerRecord:
        """Unpack a blob of the store as the next layer.

        Args:
            diff_id: what the image's configuration says it is; "" takes what comes.
            progress: compressed bytes read so far; called on the event loop.
            ready: the blob's content, if it is unpacked already; it is used or discarded.
        """
        self.layers.append(await self.unpack(self.chain, blob, diff_id, progress, ready))
        return self.layers[-1]

    async def unpack(
        self, parent: str, blob: str, diff_id: str, progress: Progress | None = None, ready: Unpacked | None = None
    ) -> LayerRecord:
        """Unpack a blob on top of chain `parent`, which need not be there yet; see `add_layer`."""
        self.pin(blob)
        return await self._store.unpack(self, parent, blob, diff_id, progress, ready)

    async def register(
        self, raw: bytes, references: Iterable[Reference] = (), parent: str = "", *, named: bool = True
    ) -> str:
        """Make the image known; durable on return. Returns its id.

        Args:
            named: the configuration names the layers, as an image's does.

        Raises InvalidArgument when the configuration names other layers than were added.
        """
        config = parse_config(raw)
        if named and config.rootfs.diff_ids != [layer.diff_id for layer in self.layers]:
            raise InvalidArgument("image configuration and layers do not match")
        return await self._store.register(self, raw, config, references, parent)
