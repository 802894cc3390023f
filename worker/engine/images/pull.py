"""Pulling an image: manifest, configuration and layers, every one verified before it counts.

Layers download in parallel (bounded) and are unpacked as they arrive. Nothing is registered unless all of it
is there; what a failed or cancelled pull brought is removed. Messages are Docker's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import aiohttp

from api.errors import InvalidArgument, NotFound, ShoalError, Upstream
from api.types.auth import AuthConfig
from worker.engine.images import limits
from worker.engine.images.blobs import BlobWriter
from worker.engine.images.ingestion import Ingestion
from worker.engine.images.layers import chain_ids
from worker.engine.images.manifest import (
    Descriptor,
    Manifest,
    check_artifact,
    choose_platform,
    host_architecture,
    parse_manifest,
)
from worker.engine.images.model import ImageConfig, LayerRecord, parse_config
from worker.engine.images.names import Reference
from worker.engine.images.progress import Report, state, step
from worker.engine.images.registry import Endpoint, RegistryConfig, RegistryError, Repository, endpoints, explain
from worker.engine.images.store import ImageStore

_PROGRESS_INTERVAL_S = 0.1


@dataclass(frozen=True)
class _Found:
    """What a registry said an image is."""

    manifest: Manifest
    config: bytes
    image: ImageConfig
    image_id: str
    digest: str
    """Of what the reference names: the index, if it is one."""


class Puller:
    """Pulls images into a store."""

    def __init__(self, store: ImageStore, config: RegistryConfig, artifact: str = "") -> None:
        """`artifact`: the media type of the configurations it takes; "" takes those of images. Of other artifacts the
        diff ids are not relied upon: dockerd writes the digests of compressed layers there for plugins."""
        self._store = store
        self._config = config
        self._artifact = artifact
        self._downloading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By digest: pulls that want the same layer at once fetch it once."""

    async def pull(self, reference: Reference, auth: AuthConfig | None, report: Report) -> str:
        """Pull by tag or digest; returns the image id.

        Raises: NotFound (unknown, or no access), Upstream (registry unreachable or broken), InvalidArgument
        (damaged or wrong content). Nothing of the image is left then.
        """
        refused: ShoalError | None = None
        for endpoint in endpoints(reference, self._config):
            try:
                async with self._session(endpoint, reference, auth) as repository:
                    found = await self._find(repository, reference)
                    return await self._fetch(repository, reference, found, report)
            except Upstream as error:
                # A clear "there is no such image" of a mirror says more than a later "no route to host".
                refused = self._worse(refused, explain(error, reference))
            except NotFound as error:
                refused = error
            except ShoalError as error:
                refused = explain(error, reference)
                if not endpoint.mirror:
                    break
        assert refused is not None, "there is always an endpoint"
        raise refused

    @staticmethod
    def _worse(before: ShoalError | None, now: ShoalError) -> ShoalError:
        return before if isinstance(before, NotFound) and isinstance(now, Upstream) else now

    def _session(self, endpoint: Endpoint, reference: Reference, auth: AuthConfig | None) -> Repository:
        return Repository(endpoint, reference.path, auth, self._config.retry_delay_s)

    async def tags(self, reference: Reference, auth: AuthConfig | None) -> list[str]:
        """All tags of a repository, for `pull --all-tags`."""
        refused: ShoalError | None = None
        for endpoint in endpoints(reference, self._config):
            try:
                async with self._session(endpoint, reference, auth) as repository:
                    return await repository.tags()
            except ShoalError as error:
                refused = self._worse(refused, explain(error, reference))
        assert refused is not None, "there is always an endpoint"
        raise refused

    async def _find(self, repository: Repository, reference: Reference) -> _Found:
        raw, media_type, digest = await repository.manifest(reference.digest or reference.tag)
        manifest = parse_manifest(raw, media_type)
        if manifest.is_index:
            chosen = choose_platform(manifest.manifests, host_architecture())
            raw, media_type, _digest = await repository.manifest(chosen.digest)
            manifest = parse_manifest(raw, media_type)
        if manifest.config is None:
            raise InvalidArgument("invalid manifest: an index within an index")
        check_artifact(manifest.config, self._artifact)
        if manifest.config.size > limits.CONFIG_MAX:
            raise InvalidArgument(f"image configuration is larger than {limits.CONFIG_MAX} bytes")
        config = await repository.small_blob(manifest.config.digest, limits.CONFIG_MAX)
        image = parse_config(config)
        if not self._artifact and len(image.rootfs.diff_ids) != len(manifest.layers):
            raise InvalidArgument("invalid image: manifest and configuration name different numbers of layers")
        return _Found(manifest, config, image, manifest.config.digest, digest)

    async def _fetch(self, repository: Repository, reference: Reference, found: _Found, report: Report) -> str:
        report({"status": f"Pulling from {reference.path}", "id": reference.tag or reference.digest})
        index = self._store.index
        names = [reference.with_digest(found.digest)]
        if reference.tag:
            names.insert(0, reference)
        known = index.images.get(found.image_id)
        up_to_date = known is not None and all(index.references.get(str(name)) == found.image_id for name in names)
        if not up_to_date:
            async with self._store.ingest() as ingestion:
                if self._artifact:
                    await self._layers_in_turn(repository, ingestion, found, report)
                else:
                    await self._layers(repository, ingestion, found, report)
                await ingestion.register(found.config, names, named=not self._artifact)
        report({"status": f"Digest: {found.digest}"})
        self._store.publish_transfer("pull", reference, found.image_id)
        outcome = "Image is up to date" if up_to_date else "Downloaded newer image"
        report({"status": f"Status: {outcome} for {reference.familiar()}"})
        return found.image_id

    async def _layers(self, repository: Repository, ingestion: Ingestion, found: _Found, report: Report) -> None:
        """Download and unpack what is missing, in parallel."""
        layers = found.manifest.layers
        known = 0
        for layer, diff_id in zip(layers, found.image.rootfs.diff_ids, strict=True):
            if not ingestion.known_layer(diff_id):
                break
            report(state("Already exists", _key(layer)))
            known += 1
        missing = layers[known:]
        for layer in missing:
            report(state("Pulling fs layer", _key(layer)))
            ingestion.pin(layer.digest)
        chains = ["", *chain_ids(found.image.rootfs.diff_ids)]
        try:
            async with asyncio.TaskGroup() as group:
                downloads = self._start_downloads(group, repository, missing, report)
                unpacked = [
                    group.create_task(
                        self._unpack(ingestion, downloads[layer.digest], layer, chains[at], diff_id, report),
                        name=f"unpack {_key(layer)}",
                    )
                    for at, (layer, diff_id) in enumerate(
                        zip(missing, found.image.rootfs.diff_ids[known:], strict=True), known
                    )
                ]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        ingestion.layers += [task.result() for task in unpacked]

    async def _layers_in_turn(
        self, repository: Repository, ingestion: Ingestion, found: _Found, report: Report
    ) -> None:
        """Download in parallel, and unpack one after the other: only what was unpacked tells what stands on it."""
        for layer in found.manifest.layers:
            ingestion.pin(layer.digest)
        try:
            async with asyncio.TaskGroup() as group:
                downloads = self._start_downloads(group, repository, found.manifest.layers, report)
                for layer in found.manifest.layers:
                    download = downloads[layer.digest]
                    ingestion.layers.append(await self._unpack(ingestion, download, layer, ingestion.chain, "", report))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def _start_downloads(
        self, group: asyncio.TaskGroup, repository: Repository, layers: Sequence[Descriptor], report: Report
    ) -> dict[str, asyncio.Task[None]]:
        slots = asyncio.Semaphore(limits.DOWNLOADS_PARALLEL)
        started: dict[str, asyncio.Task[None]] = {}
        for layer in layers:
            if layer.digest not in started:
                work = self._download(slots, repository, layer, report)
                started[layer.digest] = group.create_task(work, name=f"download {_key(layer)}")
        return started

    async def _unpack(
        self,
        ingestion: Ingestion,
        download: asyncio.Task[None],
        layer: Descriptor,
        parent: str,
        diff_id: str,
        report: Report,
    ) -> LayerRecord:
        """Unpack a layer when it is there, whatever of those below it is."""
        await asyncio.wait([download])
        if download.cancelled() or download.exception() is not None:
            raise asyncio.CancelledError  # the download's own error ends the pull
        key = _key(layer)
        last = 0.0

        def progress(at: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _PROGRESS_INTERVAL_S:
                last = now
                report(step("Extracting", at, layer.size, key))

        record = await ingestion.unpack(parent, layer.digest, diff_id, progress)
        report(step("Extracting", layer.size, layer.size, key))
        report(state("Pull complete", key))
        return record

    async def _download(
        self, slots: asyncio.Semaphore, repository: Repository, layer: Descriptor, report: Report
    ) -> None:
        key = _key(layer)
        if slots.locked():
            report(state("Waiting", key))
        lock = self._downloading.setdefault(layer.digest, asyncio.Lock())
        async with slots, lock:
            if not self._store.blobs.has(layer.digest):
                await self._fetch_blob(repository, layer, report)
        report(state("Download complete", key))

    async def _fetch_blob(self, repository: Repository, layer: Descriptor, report: Report) -> None:
        disk = self._store.disk
        writer = self._store.blobs.writer()
        try:
            await repository.retried(lambda: self._receive(repository, layer, writer, report))
            report(state("Verifying Checksum", _key(layer)))
            await disk.run(writer.commit, layer.digest)
        except InvalidArgument as error:
            raise Upstream(error.message) from error
        finally:
            await disk.run(writer.close)

    async def _receive(self, repository: Repository, layer: Descriptor, writer: BlobWriter, report: Report) -> None:
        """Receive a layer, from where the last attempt broke off."""
        async with repository.open_blob(layer.digest, writer.size) as (body, start):
            if start != writer.size:
                writer.restart()
            last = 0.0
            while True:
                data = await _gather(body)
                if not data:
                    break
                if writer.size + len(data) > layer.size:
                    raise RegistryError(416, "", f"layer {layer.digest} is larger than the manifest says")
                await self._store.disk.run(writer.write, data)
                now = time.monotonic()
                if now - last >= _PROGRESS_INTERVAL_S:
                    last = now
                    report(step("Downloading", writer.size, layer.size, _key(layer)))
        if writer.size < layer.size:
            raise Upstream(f"layer {layer.digest} broke off after {writer.size} of {layer.size} bytes")


def _key(layer: Descriptor) -> str:
    return layer.digest.removeprefix("sha256:")[:12]


async def _gather(body: aiohttp.StreamReader) -> bytes:
    """About one chunk: small reads are joined, so that the disk thread is not called for every packet."""
    parts: list[bytes] = []
    size = 0
    while size < limits.CHUNK:
        data = await body.read(limits.CHUNK - size)
        if not data:
            break
        parts.append(data)
        size += len(data)
    return b"".join(parts)
