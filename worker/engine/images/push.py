"""Pushing an image: layers the registry lacks, the configuration, and last the manifest that names them.

The manifest goes only when all it names is there, so a push that breaks off never publishes half an image.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from api.errors import NotFound, ShoalError, Unauthorized, Upstream
from api.types.auth import AuthConfig
from base.ids import short_id
from worker.engine.images import limits, manifest, names
from worker.engine.images.compression import compress, format_of
from worker.engine.images.ingestion import Ingestion
from worker.engine.images.model import Index, LayerRecord
from worker.engine.images.names import Reference
from worker.engine.images.progress import Report, state, step
from worker.engine.images.registry import RegistryConfig, RegistryError, Repository, endpoints
from worker.engine.images.store import ImageStore

_PROGRESS_INTERVAL_S = 0.1
_OCI_LAYERS = {
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}


@dataclass(frozen=True)
class _Blob:
    """What is uploaded of a layer."""

    digest: str
    size: int
    path: Path
    format: str
    """`gzip` or `zstd`."""


class Pusher:
    """Pushes images of a store."""

    def __init__(self, store: ImageStore, config: RegistryConfig, artifact: str = "") -> None:
        """`artifact`: the media type of the configurations; "" is an image's."""
        self._store = store
        self._config = config
        self._artifact = artifact

    async def push(self, reference: Reference, auth: AuthConfig | None, report: Report) -> str:
        """Push one tag; returns the digest of its manifest.

        Raises: NotFound (no such tag here, or no access there), Upstream. Nothing new stays on this host.
        """
        image = self._store.index.references.get(str(reference))
        if image is None:
            raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
        refused: ShoalError | None = None
        for endpoint in endpoints(reference, self._config):
            if endpoint.mirror:
                continue
            repository = Repository(endpoint, reference.path, auth, self._config.retry_delay_s, "pull,push")
            try:
                async with repository, self._store.ingest() as pins:
                    return await self._push(repository, pins, image, reference, report)
            except RegistryError as error:
                raise _explain(error, reference) from error
            except Unauthorized as error:
                raise _denied(error.message) from error
            except Upstream as error:
                refused = error
        assert refused is not None, "there is always an endpoint that is no mirror"
        raise refused

    async def _push(
        self, repository: Repository, pins: Ingestion, image: str, reference: Reference, report: Report
    ) -> str:
        index = self._store.index
        raw = await self._store.config_bytes(image)
        layers = [index.layers[chain] for chain in index.images[image].chains]
        for key in (image, *(layer.chain for layer in layers), *(layer.blob for layer in layers)):
            pins.pin(key)
        await repository.check()
        report({"status": f"The push refers to repository [{reference.repository}]"})
        for layer in layers:
            report(state("Preparing", short_id(layer.diff_id)))
        slots = asyncio.Semaphore(limits.UPLOADS_PARALLEL)
        try:
            async with asyncio.TaskGroup() as group:
                started = [
                    group.create_task(
                        self._layer(slots, repository, pins, layer, _elsewhere(index, layer, reference), report),
                        name=f"push {layer.diff_id}",
                    )
                    for layer in layers
                ]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        blobs = [task.result() for task in started]
        if not await repository.has_blob(image):
            await repository.upload(image, len(raw), lambda: _once(raw))
        written, media_type = _manifest(image, len(raw), blobs, self._artifact)
        digest = await repository.put_manifest(reference.tag, written, media_type)
        await self._store.add_reference(reference.with_digest(digest), image)
        report({"status": f"{reference.tag}: digest: {digest} size: {len(written)}"})
        report({"progressDetail": {}, "aux": {"Tag": reference.tag, "Digest": digest, "Size": len(written)}})
        self._store.publish_transfer("push", reference, image)
        return digest

    async def _layer(
        self,
        slots: asyncio.Semaphore,
        repository: Repository,
        pins: Ingestion,
        layer: LayerRecord,
        elsewhere: str,
        report: Report,
    ) -> _Blob:
        key = short_id(layer.diff_id)
        if slots.locked():
            report(state("Waiting", key))
        async with slots:
            blob = await self._compressed(pins, layer)
            if await repository.has_blob(blob.digest):
                report(state("Layer already exists", key))
                return blob
            content = partial(self._read, blob, key, report)
            if await repository.upload(blob.digest, blob.size, content, elsewhere):
                report(state("Pushed", key))
            else:
                report(state(f"Mounted from {elsewhere}", key))
            return blob

    async def _compressed(self, pins: Ingestion, layer: LayerRecord) -> _Blob:
        """The layer as registries expect it; one that came uncompressed is compressed for the push."""
        store = self._store
        path = store.blobs.path(layer.blob)
        kind = await store.disk.run(format_of, path)
        if kind in _OCI_LAYERS:
            return _Blob(layer.blob, layer.blob_size, path, kind)
        writer = store.blobs.writer()
        try:
            await store.disk.run(compress, path, writer)
            digest, size = writer.digest(), writer.size
            pins.pin(digest)
            await store.disk.run(writer.commit)
        finally:
            await store.disk.run(writer.close)
        return _Blob(digest, size, store.blobs.path(digest), "gzip")

    async def _read(self, blob: _Blob, key: str, report: Report) -> AsyncIterator[bytes]:
        at, last = 0, 0.0
        with open(blob.path, "rb") as file:
            while data := await self._store.disk.run(file.read, limits.CHUNK):
                yield data
                at += len(data)
                now = time.monotonic()
                if now - last >= _PROGRESS_INTERVAL_S:
                    last = now
                    report(step("Pushing", at, blob.size, key))


def _elsewhere(index: Index, layer: LayerRecord, reference: Reference) -> str:
    """Another repository of the same registry that was seen there with this layer; "" when none was."""
    for key, image in sorted(index.references.items()):
        other = names.parse(key)
        elsewhere = other.domain == reference.domain and other.path != reference.path
        if elsewhere and other.digest and layer.chain in index.images[image].chains:
            return other.path
    return ""


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _manifest(image: str, size: int, blobs: list[_Blob], artifact: str) -> tuple[bytes, str]:
    """Docker's schema 2, or OCI's when a layer is not gzip, which schema 2 has no name for."""
    docker = all(blob.format == "gzip" for blob in blobs)
    kind = manifest.DOCKER_MANIFEST if docker else manifest.OCI_MANIFEST
    layers = [
        {
            "mediaType": manifest.DOCKER_LAYER if docker else _OCI_LAYERS[blob.format],
            "size": blob.size,
            "digest": blob.digest,
        }
        for blob in blobs
    ]
    kind_of_config = artifact or (manifest.DOCKER_CONFIG if docker else manifest.OCI_CONFIG)
    config = {"mediaType": kind_of_config, "size": size, "digest": image}
    return msgspec.json.encode({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}), kind


def _denied(why: str) -> NotFound:
    return NotFound(f"denied: requested access to the resource is denied: {why}")


def _explain(error: RegistryError, reference: Reference) -> ShoalError:
    if error.status in (401, 403):
        return _denied(error.message)
    return Upstream(f"failed to push {reference.familiar()}: {error.message}")
