"""The image store: content-addressed blobs, unpacked layers, names, and who holds what.

Invariants: an image is registered in one transaction, after its layers are on disk; what no image and no running
ingestion needs is garbage, derived from the records, and removed at once and again at start. It satisfies
`worker.engine.parts.Images`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from api.errors import InvalidArgument, NotFound
from api.types.image import ImageRemoved
from base import faultpoint
from base.clock import Clock
from base.offload import Pool
from base.supervise import TaskOwner
from worker.engine.images import limits, names
from worker.engine.images.blobs import BlobStore
from worker.engine.images.ingestion import Ingestion, Progress
from worker.engine.images.layers import LayerStore, Unpacked, chain_id
from worker.engine.images.model import (
    HOLDS,
    IMAGES,
    LAYERS,
    REFERENCES,
    HoldRecord,
    ImageConfig,
    ImageRecord,
    Index,
    LayerRecord,
    ReferenceRecord,
    labels_of,
    no_such_image,
    parse_config,
)
from worker.engine.images.names import Reference
from worker.engine.images.removal import plan_removal
from worker.engine.parts import Events, ImageView
from worker.engine.records import Delete, Put, Records
from worker.engine.syscalls.tree import remove_tree

log = logging.getLogger(__name__)


class ImageStore:
    """All images of this host."""

    def __init__(
        self,
        records: Records,
        data_root: Path,
        events: Events,
        clock: Clock,
        *,
        container_running: Callable[[str], bool] | None = None,
    ) -> None:
        """`container_running` tells whether a holder is running; without it every holder counts as running."""
        self._records = records
        self._events = events
        self._clock = clock
        self.container_running: Callable[[str], bool] = container_running or (lambda _holder: True)
        self.blobs = BlobStore(data_root / "blobs")
        self.layers = LayerStore(data_root / "layers")
        self.index = Index()
        self.pins: Counter[str] = Counter()
        self.disk = Pool("image-disk", 4)
        self._unpackers = Pool("image-unpack", limits.UNPACKS_PARALLEL)
        self._sweepers = Pool("image-sweep", 1)
        self._owner = TaskOwner("images")
        self._closing = False
        self._change = asyncio.Lock()
        self._unpacking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # --- life ---

    async def start_up(self) -> None:
        """Read the records, drop what is not whole, and remove what nobody owns."""
        await self.disk.run(self.blobs.prepare)
        await self.disk.run(self.layers.prepare)
        index = self.index
        index.layers = await self._records.all(LAYERS, LayerRecord)
        for record in (await self._records.all(IMAGES, ImageRecord)).values():
            config = await self.disk.run(self._load_config, record)
            if config is not None:
                index.put_image(record, config)
        references = await self._records.all(REFERENCES, ReferenceRecord)
        index.references = {key: value.image for key, value in references.items() if value.image in index.images}
        for hold in (await self._records.all(HOLDS, HoldRecord)).values():
            index.holds.setdefault(hold.image, set()).add(hold.holder)
        await self.collect()
        await self.disk.run(self._remove_unowned)

    def _load_config(self, record: ImageRecord) -> ImageConfig | None:
        """The image's configuration; None (and a line in the log) when a part of the image is missing."""
        for chain in record.chains:
            if chain not in self.index.layers or not self.layers.has(chain):
                log.error("image dropped: layer is missing image=%s layer=%s", record.id, chain)
                return None
        try:
            return parse_config(self.blobs.read(record.id))
        except (OSError, InvalidArgument) as error:
            log.error("image dropped: configuration is unreadable image=%s reason=%s", record.id, error)
            return None

    def _remove_unowned(self) -> None:
        """Files that no record names: left by a crash between unpacking and registering."""
        for chain in self.layers.all():
            if chain not in self.index.layers:
                aside = self.layers.set_aside(chain)
                if aside is not None:
                    remove_tree(aside)
        live = self.index.live_blobs(self.index.layers)
        for digest in self.blobs.all():
            if digest not in live:
                self.blobs.discard(digest)

    async def close(self) -> None:
        """Stop running ingestions and wait for their threads."""
        self._closing = True
        await self._owner.close()
        await asyncio.to_thread(self._unpackers.close)
        await asyncio.to_thread(self._sweepers.close)
        await asyncio.to_thread(self.disk.close)

    # --- what containers need (worker.engine.parts.Images) ---

    async def resolve(self, reference: str) -> ImageView:
        """The image a reference stands for. A full id also finds an image that was removed by force while held."""
        image = self.index.find(reference)
        if image is None and names.is_full_id(reference):
            image = "sha256:" + reference.removeprefix("sha256:")
        if image not in self.index.images:
            raise no_such_image(reference)
        record = self.index.images[image]
        layers = [self.layers.path(chain) for chain in record.chains]
        return ImageView(id=image, config=self.index.configs[image].config or {}, layers=layers)

    async def hold(self, image_id: str, holder: str) -> None:
        async with self._change:
            if image_id not in self.index.images:
                raise no_such_image(image_id)
            record = HoldRecord(image=image_id, holder=holder)
            await self._records.write(Put(HOLDS, record.key, record))
            self.index.holds.setdefault(image_id, set()).add(holder)

    async def release(self, image_id: str, holder: str) -> None:
        async with self._change:
            await self._records.write(Delete(HOLDS, HoldRecord(image=image_id, holder=holder).key))
            holders = self.index.holds.get(image_id, set())
            holders.discard(holder)
            image = self.index.images.get(image_id)
            if holders or image is None or not image.removed:
                return
            await self._records.write(Delete(IMAGES, image_id))
            self.index.drop_image(image_id)
            self._discard_config(image_id)
        await self.collect()

    async def reconcile(self, holders: Collection[str]) -> None:
        """See `parts.Images.reconcile`."""
        stale = [
            (image, holder) for image, some in self.index.holds.items() for holder in some if holder not in holders
        ]
        for image, holder in stale:
            log.info("image let go image=%s holder=%s", image, holder[:12])
            await self.release(image, holder)

    # --- ingestion ---

    @asynccontextmanager
    async def ingest(self) -> AsyncIterator[Ingestion]:
        """Build up an image; on the way out, whatever did not become part of one is removed."""
        ingestion = Ingestion(self)
        try:
            yield ingestion
        finally:
            for key in ingestion.pinned:
                self.pins[key] -= 1
                if not self.pins[key]:
                    del self.pins[key]
            await self.collect()
            live = self.index.live_blobs(self.index.layers)
            unused = {key for key in ingestion.pinned if key not in live and not self.pins[key]}
            for aside in [self.blobs.set_aside(key) for key in sorted(unused)]:
                if aside is not None:
                    self.discard(aside)

    async def unpack(
        self,
        ingestion: Ingestion,
        parent: str,
        blob: str,
        diff_id: str,
        progress: Progress | None = None,
        ready: Unpacked | None = None,
    ) -> LayerRecord:
        """Unpack a blob on top of chain `parent`, the same layer by one at a time; see `Ingestion.unpack`."""
        key = chain_id(parent, diff_id) if diff_id else f"{parent} {blob}"
        lock = self._unpacking.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                record = self.index.layers.get(key)
                if record is None:
                    done, ready = ready or await self.prepare(blob, diff_id, progress), None
                    record = self._place(ingestion, parent, blob, done)
                ingestion.pin(record.chain)
                ingestion.pin(record.blob)
            return record
        finally:
            if ready is not None:
                self.discard(ready.home)

    def _place(self, ingestion: Ingestion, parent: str, blob: str, done: Unpacked) -> LayerRecord:
        """What was unpacked becomes a layer, unless the same one has come another way. Nothing is awaited in here."""
        chain = chain_id(parent, done.diff_id)
        ingestion.pin(chain)
        record = self.index.layers.get(chain)
        if record is not None:
            self.discard(done.home)
            return record
        try:
            self.layers.place(done, chain)
        except OSError:
            self.discard(done.home)
            raise
        faultpoint.reach("layer.placed")
        record = LayerRecord(
            chain=chain,
            diff_id=done.diff_id,
            blob=blob,
            blob_size=self.blobs.path(blob).stat().st_size,
            size=done.size,
            tar_size=done.tar_size,
        )
        self.index.layers[chain] = record
        return record

    def discard(self, aside: Path) -> None:
        """Remove what has no name any more, in the background; the next start removes what a crash leaves."""

        async def work() -> None:
            await self._sweepers.run(remove_tree, aside)

        if not self._closing:
            self._owner.spawn(work(), name=f"remove {aside.name}")

    async def settled(self) -> None:
        """Until all that was discarded before is gone from the disk."""
        await asyncio.sleep(0)  # what was discarded last gets in line
        await self._sweepers.run(lambda: None)

    async def prepare(self, blob: str, diff_id: str = "", progress: Progress | None = None) -> Unpacked:
        """The content of a blob, for `unpack` or `discard`. Raises InvalidArgument; see `LayerStore.unpack`."""
        loop = asyncio.get_running_loop()
        stop = threading.Event()

        def report(at: int) -> None:
            if progress is not None:
                loop.call_soon_threadsafe(progress, at)

        async def work() -> Unpacked | Exception:
            try:
                return await self._unpackers.run(self.layers.unpack, self.blobs.path(blob), diff_id, stop, report)
            except Exception as error:  # noqa: BLE001 - handed to the caller, who alone knows what it means
                return error

        task = self._owner.spawn(work(), name=f"unpack {blob[:19]}")
        try:
            result = await asyncio.shield(task)
        except asyncio.CancelledError:
            # The thread reads a blob that is pinned by us: it must have ended before we go.
            stop.set()
            await asyncio.wait([task])
            if not task.cancelled() and isinstance(late := task.result(), Unpacked):
                self.discard(late.home)
            raise
        if isinstance(result, Exception):
            raise result
        return result

    async def register(
        self, ingestion: Ingestion, raw: bytes, config: ImageConfig, references: Iterable[Reference], parent: str
    ) -> str:
        """Write an image and its names; see `Ingestion.register`."""
        image = await ingestion.put(raw)
        await self.disk.run(self._sync)
        faultpoint.reach("image.synced")
        async with self._change:
            old = self.index.images.get(image)
            record = ImageRecord(
                id=image,
                chains=tuple(layer.chain for layer in ingestion.layers),
                parent=parent or (old.parent if old is not None else ""),
                tagged_ns=self._clock.now_ns(),
            )
            named = [str(reference) for reference in references]
            await self._records.write(
                Put(IMAGES, image, record),
                *(Put(LAYERS, layer.chain, layer) for layer in ingestion.layers),
                *(Put(REFERENCES, name, ReferenceRecord(image=image)) for name in named),
            )
            self.index.put_image(record, config)
            self.index.references.update(dict.fromkeys(named, image))
        return image

    def _sync(self) -> None:
        """All that was written for images is on disk."""
        self.layers.sync()
        if not self.blobs.shares_disk_with(self.layers.root):
            self.blobs.sync()

    async def collect(self) -> list[str]:
        """Remove layers and blobs that nobody needs. Returns the chain ids of the layers that went."""
        index = self.index
        live = index.live_chains()
        dead = [layer for chain, layer in index.layers.items() if chain not in live and not self.pins[chain]]
        for layer in dead:
            del index.layers[layer.chain]
        kept = index.live_blobs(index.layers)
        aside = [self.layers.set_aside(layer.chain) for layer in dead]
        blobs = {layer.blob for layer in dead if layer.blob not in kept and not self.pins[layer.blob]}
        aside += [self.blobs.set_aside(blob) for blob in sorted(blobs)]
        # Up to here nothing was awaited, and the records' writer keeps the order of calls: an ingestion that brings
        # the same layer back can only be written after this.
        if dead:
            await self._records.write(*(Delete(LAYERS, layer.chain) for layer in dead))
        for path in aside:
            if path is not None:
                self.discard(path)
        return [layer.chain for layer in dead]

    # --- names ---

    async def tag(self, source: str, repository: str, tag: str) -> None:
        """Give an image another name. Raises NotFound, InvalidArgument."""
        target = names.combine(repository, tag)
        if target.digest:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        if target.familiar_name == "sha256":
            raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
        async with self._change:
            image = self.index.get(source)
            await self._point(target, image)
        self._events.publish("image", "tag", image, self.attributes(image, target.familiar()))

    async def add_reference(self, reference: Reference, image: str) -> None:
        """Point a name at an image that is there."""
        async with self._change:
            if image not in self.index.images:
                raise no_such_image(image)
            await self._point(reference, image)

    async def _point(self, target: Reference, image: str) -> None:
        record = msgspec.structs.replace(self.index.images[image], tagged_ns=self._clock.now_ns())
        await self._records.write(
            Put(REFERENCES, str(target), ReferenceRecord(image=image)), Put(IMAGES, image, record)
        )
        self.index.references[str(target)] = image
        self.index.images[image] = record

    async def set_parent(self, image: str, parent: str) -> None:
        """Say what an image was built on, as an archive has it: nothing happens if that can't be true."""
        async with self._change:
            child, other = self.index.images.get(image), self.index.images.get(parent)
            if child is None or other is None or child.parent or other.removed or image == parent:
                return
            if child.chains[: len(other.chains)] != other.chains or self.index.ancestor(parent, {image}):
                return
            record = msgspec.structs.replace(child, parent=parent)
            await self._records.write(Put(IMAGES, image, record))
            self.index.images[image] = record

    def attributes(self, image: str, name: str) -> dict[str, str]:
        """What an event says of an image: its labels and its name."""
        config = self.index.configs.get(image)
        return {**(labels_of(config) if config is not None else {}), "name": name}

    def publish_transfer(self, action: str, reference: Reference, image: str) -> None:
        """A pull's or push's actor is the name that travelled."""
        self._events.publish("image", action, reference.familiar(), self.attributes(image, reference.familiar_name))

    def publish(self, action: str, image: str, name: str) -> None:
        """Tell of an event of an image whose actor is the image itself."""
        self._events.publish("image", action, image, self.attributes(image, name))

    # --- removal ---

    async def remove(self, text: str, *, force: bool = False, prune: bool = True) -> list[ImageRemoved]:
        """Remove a name or an image (v1.24 "Remove an image").

        Returns what was untagged, then what was deleted. Raises NotFound, Conflict.
        """
        async with self._change:
            named = None
            if not names.is_full_id(text):
                try:
                    named = names.parse(text).tagged()
                except InvalidArgument:
                    named = None
            plan = plan_removal(self.index, text, named, force=force, prune=prune, running=self.container_running)
            attributes = {image: self.attributes(image, image) for image in [plan.image, *plan.delete]}
            await self._apply(plan.untag, plan.delete)
        layers = await self.collect() if plan.delete else []
        for _reference in plan.untag:
            self._events.publish("image", "untag", plan.image, attributes[plan.image])
        for image in plan.delete:
            self._events.publish("image", "delete", image, attributes[image])
        gone: Sequence[str] = [*plan.delete, *reversed(layers)]
        untagged = [ImageRemoved(untagged=reference.familiar()) for reference in plan.untag]
        return untagged + [ImageRemoved(deleted=digest) for digest in gone]

    async def _apply(self, untag: Sequence[Reference], delete: Sequence[str]) -> None:
        changes: list[Put | Delete] = [Delete(REFERENCES, str(reference)) for reference in untag]
        hidden: list[ImageRecord] = []
        for image in delete:
            if self.index.holds.get(image):
                record = msgspec.structs.replace(self.index.images[image], removed=True)
                hidden.append(record)
                changes.append(Put(IMAGES, image, record))
            else:
                changes.append(Delete(IMAGES, image))
        await self._records.write(*changes)
        for reference in untag:
            self.index.references.pop(str(reference), None)
        for record in hidden:
            self.index.images[record.id] = record
        for image in delete:
            if image in self.index.images and not self.index.images[image].removed:
                self.index.drop_image(image)
                self._discard_config(image)

    def _discard_config(self, image: str) -> None:
        if not self.pins[image]:
            self.blobs.discard(image)

    async def config_bytes(self, image: str) -> bytes:
        """The image's configuration, byte for byte."""
        if image not in self.index.images:
            raise NotFound(f"No such image: {image}")
        return await self.disk.run(self.blobs.read, image)

    def inspect_parts(self, text: str) -> tuple[ImageRecord, ImageConfig]:
        """Record and configuration of the image a reference stands for; raises NotFound."""
        image = self.index.get(text)
        return self.index.images[image], self.index.configs[image]
