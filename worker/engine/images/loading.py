"""Loading an archive of images (`docker load`) while it comes in.

Every file of the archive becomes a blob as it passes, and what may be a layer is unpacked meanwhile; the manifest,
which comes last, says what is what. Invariant: whatever of it does not become part of an image is removed at the end.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence

from api.errors import InvalidArgument
from base.ids import short_id
from worker.engine.images.archive import Archive, ArchivedImage, ArchiveReader, Part
from worker.engine.images.compression import LayerReader
from worker.engine.images.ingestion import Ingestion
from worker.engine.images.intake import incoming
from worker.engine.images.layers import Unpacked
from worker.engine.images.model import parse_config
from worker.engine.images.progress import Report, silent, step
from worker.engine.images.store import ImageStore

_PROGRESS_INTERVAL_S = 0.1
_Early = dict[str, asyncio.Task[Unpacked | Exception]]


class Loader:
    """Loads archives into a store."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    async def load(self, body: AsyncIterator[bytes], report: Report, *, quiet: bool) -> Sequence[str]:
        """Register every image of an archive; returns their ids. Raises InvalidArgument."""
        progress = silent if quiet else report
        early: _Early = {}
        try:
            async with self._store.ingest() as pins, asyncio.TaskGroup() as group:
                archive = await self._receive(body, pins, group, early, progress)
                images = await self._store.disk.run(lambda: list(archive.images()))
                loaded = [await self._load_one(image, early, progress, report) for image in images]
                for image, identity in zip(images, loaded, strict=True):
                    await self._store.set_parent(identity, image.parent)
                return loaded
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            for task in early.values():
                if not task.cancelled() and isinstance(unused := task.result(), Unpacked):
                    self._store.discard(unused.home)

    async def _receive(
        self,
        body: AsyncIterator[bytes],
        pins: Ingestion,
        group: asyncio.TaskGroup,
        early: _Early,
        report: Report,
    ) -> Archive:
        """Take the archive apart. What may be a layer that is not here yet begins to be unpacked."""
        store = self._store
        known = {layer.diff_id for layer in store.index.layers.values()}
        parts: dict[str, Part] = {}
        async with incoming(body, "image-load") as came:
            reader = await came.thread.run(
                lambda: ArchiveReader(LayerReader(came.source, threading.Event(), hashing=False))
            )
            while (found := await came.thread.run(reader.next_file)) is not None:
                path, member = found
                writer = store.blobs.writer()
                try:
                    layer_like = await came.thread.run(reader.copy, writer)
                    part = Part(writer.digest(), member.size)
                    pins.pin(part.digest)
                    await came.thread.run(writer.commit)
                finally:
                    await store.disk.run(writer.close)
                parts[path] = part
                if layer_like and part.digest not in known and part.digest not in early:
                    work = self._unpack_early(part, report)
                    early[part.digest] = group.create_task(work, name=f"unpack {part.digest[:19]}")
        return Archive(parts, reader.links, store.blobs.read)

    async def _unpack_early(self, part: Part, report: Report) -> Unpacked | Exception:
        """An error is nobody's concern unless an image turns out to need this part."""
        try:
            return await self._store.prepare(part.digest, progress=_Progress(part, report))
        except Exception as error:  # noqa: BLE001 - raised by whoever needs the layer
            return error

    async def _load_one(self, image: ArchivedImage, early: _Early, progress: Report, report: Report) -> str:
        config = parse_config(image.config)
        if len(config.rootfs.diff_ids) != len(image.layers):
            raise InvalidArgument("invalid image archive: configuration and manifest name different numbers of layers")
        async with self._store.ingest() as ingestion:
            for layer, diff_id in zip(image.layers, config.rootfs.diff_ids, strict=True):
                if not ingestion.known_layer(diff_id):
                    await self._add_layer(ingestion, layer, diff_id, early, progress)
            replaced = {str(one): self._store.index.references.get(str(one), "") for one in image.references}
            loaded = await ingestion.register(image.config, image.references)
        for reference in image.references:
            old = replaced[str(reference)]
            if old and old != loaded:
                told = f"The image {reference.familiar()} already exists, renaming the old one with ID {old} to empty"
                report({"stream": f"{told} string\n"})
        self._store.publish("load", loaded, loaded)
        for reference in image.references:
            report({"stream": f"Loaded image: {reference.familiar()}\n"})
        if not image.references:
            report({"stream": f"Loaded image ID: {loaded}\n"})
        return loaded

    async def _add_layer(self, ingestion: Ingestion, layer: Part, diff_id: str, early: _Early, report: Report) -> None:
        ready: Unpacked | None = None
        if layer.digest in early:
            result = await early.pop(layer.digest)
            if isinstance(result, Exception):
                raise result
            ready = result
            if ready.diff_id != diff_id:
                self._store.discard(ready.home)
                raise InvalidArgument(
                    f"layer has diff id {ready.diff_id}, but the image's configuration says {diff_id}"
                )
        await ingestion.add_layer(layer.digest, diff_id, _Progress(layer, report), ready)
        report(step("Loading layer", layer.size, layer.size, short_id(layer.digest)))


class _Progress:
    """Tells how far a layer is, now and then."""

    def __init__(self, layer: Part, report: Report) -> None:
        self._layer = layer
        self._report = report
        self._last = 0.0

    def __call__(self, at: int) -> None:
        now = time.monotonic()
        if now - self._last >= _PROGRESS_INTERVAL_S:
            self._last = now
            self._report(step("Loading layer", at, self._layer.size, short_id(self._layer.digest)))
