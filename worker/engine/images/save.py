"""Writing image archives (`docker save`), as v1.24 "Image tarball format" describes, with Docker's manifest.json.

Layers are written from the blobs they came from, inflated on the way: byte for byte what their diff ids name. Blocking.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from api.errors import Internal
from worker.engine.images.compression import read_plain
from worker.engine.images.model import ImageConfig, LayerRecord
from worker.engine.images.names import Reference

_BLOCK = 512
_END = bytes(2 * _BLOCK)
_RECORD = 20 * _BLOCK


@dataclass(frozen=True)
class SavedImage:
    """What is written of one image."""

    id: str
    raw: bytes
    config: ImageConfig
    layers: Sequence[tuple[LayerRecord, Path]]
    """Lowest first, with the path of the blob."""
    references: Sequence[Reference] = field(default_factory=list)
    parent: str = ""
    """The nearest ancestor that is in the same archive."""


def layer_directory(layer: LayerRecord) -> str:
    """The name of a layer's directory in the archive: 64 hex digits, the same in every archive."""
    return hashlib.sha256(b"layer " + layer.chain.encode()).hexdigest()


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.mode = size, kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    return member.tobuf(tarfile.GNU_FORMAT)


def _small(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + data + bytes(-len(data) % _BLOCK)


def _layer(layer: LayerRecord, blob: Path) -> Iterator[bytes]:
    written = 0
    with open(blob, "rb") as file:
        for data in read_plain(file):
            written += len(data)
            yield data
    if written != layer.tar_size:
        raise Internal(f"blob {layer.blob} of layer {layer.diff_id} is damaged")
    yield bytes(-written % _BLOCK)


def _directory(layer: LayerRecord, blob: Path, parent: str, created: str) -> Iterator[bytes]:
    name = layer_directory(layer)
    about: dict[str, Any] = {"id": name, "created": created, "os": "linux", **({"parent": parent} if parent else {})}
    yield _header(name + "/", 0, tarfile.DIRTYPE)
    yield _small(f"{name}/VERSION", b"1.0")
    yield _small(f"{name}/json", msgspec.json.encode(about))
    yield _header(f"{name}/layer.tar", layer.tar_size)
    yield from _layer(layer, blob)


def write_archive(images: Sequence[SavedImage]) -> Iterator[bytes]:
    """The archive in pieces, with every layer once however many images share it."""
    total = 0
    for piece in _pieces(images):
        total += len(piece)
        yield piece
    yield _END + bytes(-(total + len(_END)) % _RECORD)


def _pieces(images: Sequence[SavedImage]) -> Iterator[bytes]:
    manifest: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    written: set[str] = set()
    for image in images:
        parent = ""
        for layer, blob in image.layers:
            name = layer_directory(layer)
            if name not in written:
                written.add(name)
                yield from _directory(layer, blob, parent, image.config.created or "")
            parent = name
        config = image.id.removeprefix("sha256:") + ".json"
        if config not in written:
            written.add(config)
            yield _small(config, image.raw)
        manifest.append(
            {
                "Config": config,
                "RepoTags": [reference.familiar() for reference in image.references] or None,
                "Layers": [f"{layer_directory(layer)}/layer.tar" for layer, _blob in image.layers],
                **({"Parent": image.parent} if image.parent else {}),
            }
        )
        for reference in image.references:
            repositories.setdefault(reference.familiar_name, {})[reference.tag] = parent
    yield _small("manifest.json", msgspec.json.encode(manifest))
    if repositories:
        yield _small("repositories", msgspec.json.encode(repositories))
