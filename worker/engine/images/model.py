"""What the image store writes down, and its view of it in memory: images, layers, references, holds. No I/O.

Invariant: every reference and every hold names an image that is here; every image's chains have layers that are here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from api.errors import InvalidArgument, NotFound
from api.types.base import Record
from worker.engine.images import limits, names
from worker.engine.images.names import Reference

IMAGES, LAYERS, REFERENCES, HOLDS = "images", "image_layers", "image_references", "image_holds"


class ImageRecord(Record, kw_only=True, frozen=True, omit_defaults=True):
    """One image. Its id is the digest of its configuration, which is kept as a blob, byte for byte."""

    id: str
    chains: tuple[str, ...] = ()
    """Chain ids of its layers, lowest first."""
    parent: str = ""
    """The image it was built or committed on, on this host; "" for what was pulled, loaded or imported."""
    tagged_ns: int = 0
    removed: bool = False
    """Removed by force while a container held it: gone from every list, kept until the last holder lets go."""


class LayerRecord(Record, kw_only=True, frozen=True, omit_defaults=True):
    """One layer on top of a chain, and the blob it was unpacked from."""

    chain: str
    diff_id: str
    blob: str
    blob_size: int
    size: int = 0
    """Bytes in its files."""
    tar_size: int = 0
    """Bytes of its uncompressed archive."""


class ReferenceRecord(Record, kw_only=True, frozen=True, omit_defaults=True):
    """What a name stands for."""

    image: str


class HoldRecord(Record, kw_only=True, frozen=True, omit_defaults=True):
    """A container that uses an image."""

    image: str
    holder: str

    @property
    def key(self) -> str:
        return f"{self.image} {self.holder}"


class RootFS(msgspec.Struct, kw_only=True):
    type: str = "layers"
    diff_ids: list[str] = []


class HistoryEntry(msgspec.Struct, kw_only=True):
    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, kw_only=True):
    """The parts of the image configuration JSON we read (OCI image spec, "Image Configuration")."""

    created: str | None = None
    author: str = ""
    comment: str = ""
    architecture: str = ""
    os: str = ""
    variant: str = ""
    docker_version: str = ""
    container: str = ""
    config: dict[str, Any] | None = None
    container_config: dict[str, Any] | None = None
    rootfs: RootFS = msgspec.field(default_factory=RootFS)
    history: list[HistoryEntry] | None = None


_config_decoder = msgspec.json.Decoder(ImageConfig)


def parse_config(raw: bytes) -> ImageConfig:
    """An image configuration; raises InvalidArgument naming the field that is wrong."""
    if len(raw) > limits.CONFIG_MAX:
        raise InvalidArgument(f"image configuration is larger than {limits.CONFIG_MAX} bytes")
    try:
        config = _config_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"invalid image configuration: {error}") from error
    if len(config.rootfs.diff_ids) > limits.LAYERS_MAX:
        raise InvalidArgument(f"image has more than {limits.LAYERS_MAX} layers")
    for diff_id in config.rootfs.diff_ids:
        names.check_digest(diff_id)
    return config


class Index:
    """The store's view in memory. Changed only after the records are written."""

    def __init__(self) -> None:
        self.images: dict[str, ImageRecord] = {}
        self.configs: dict[str, ImageConfig] = {}
        self.layers: dict[str, LayerRecord] = {}
        self.references: dict[str, str] = {}
        self.holds: dict[str, set[str]] = {}

    def put_image(self, record: ImageRecord, config: ImageConfig) -> None:
        self.images[record.id] = record
        self.configs[record.id] = config

    def drop_image(self, image_id: str) -> None:
        del self.images[image_id]
        del self.configs[image_id]

    def visible(self) -> Iterable[ImageRecord]:
        """Every image a user may see."""
        return (record for record in self.images.values() if not record.removed)

    def references_of(self, image_id: str) -> list[Reference]:
        """All names of an image, sorted."""
        return [names.parse(key) for key, image in sorted(self.references.items()) if image == image_id]

    def references_by_image(self) -> dict[str, list[Reference]]:
        """All names of all images, sorted; for views of many images."""
        grouped: dict[str, list[Reference]] = {}
        for key, image in sorted(self.references.items()):
            grouped.setdefault(image, []).append(names.parse(key))
        return grouped

    def size(self, record: ImageRecord) -> int:
        """Bytes in the files of all its layers."""
        return sum(self.layers[chain].size for chain in record.chains)

    def children(self, image_id: str) -> list[str]:
        """Images that were built on this one."""
        return [record.id for record in self.visible() if record.parent == image_id]

    def ancestor(self, image_id: str, among: Collection[str]) -> str:
        """The nearest image below that is one of these; "" for none."""
        parent = self.images[image_id].parent
        while parent in self.images and parent not in among:
            parent = self.images[parent].parent
        return parent if parent in among else ""

    def find(self, text: str) -> str | None:
        """The image id that a name, name@digest, id or unique beginning of an id stands for.

        Raises InvalidArgument for what can be neither a name nor an id.
        """
        if names.is_full_id(text):
            full = "sha256:" + text.removeprefix("sha256:")
            record = self.images.get(full)
            return full if record is not None and not record.removed else None
        reference: Reference | None
        try:
            reference = names.parse(text).tagged()
        except InvalidArgument:
            if not names.is_id_prefix(text):
                raise
            reference = None
        if reference is not None:
            found = self.references.get(str(reference))
            if found is not None:
                return found
        if names.is_id_prefix(text):
            prefix = "sha256:" + text.removeprefix("sha256:")
            matches = [record.id for record in self.visible() if record.id.startswith(prefix)]
            if len(matches) == 1:
                return matches[0]
        return None

    def get(self, text: str) -> str:
        """As `find`, but raises NotFound `No such image: NAME:TAG`."""
        found = self.find(text)
        if found is None:
            raise no_such_image(text)
        return found

    def live_chains(self) -> set[str]:
        """Layers that some image (or a hold on a removed one) needs."""
        return {chain for record in self.images.values() for chain in record.chains}

    def live_blobs(self, chains: Iterable[str]) -> set[str]:
        """Blobs that belong to images or to the layers named."""
        return {self.layers[chain].blob for chain in chains if chain in self.layers} | set(self.images)


def no_such_image(text: str) -> NotFound:
    """Docker's error, which the CLI matches before it pulls."""
    try:
        text = names.parse(text).tagged().familiar()
    except InvalidArgument:
        pass
    return NotFound(f"No such image: {text}")


def labels_of(config: ImageConfig) -> Mapping[str, str]:
    """The image's labels."""
    labels = (config.config or {}).get("Labels")
    return labels if isinstance(labels, dict) else {}


def minimal_config(config: dict[str, Any], diff_ids: list[str], created: str, comment: str) -> bytes:
    """Configuration JSON of an image made here of one layer (import, built-in). Deterministic."""
    history = {"created": created, "comment": comment}
    return msgspec.json.encode(
        {
            "architecture": "amd64",
            "comment": comment,
            "config": config,
            "created": created,
            "history": [history],
            "os": "linux",
            "rootfs": {"diff_ids": diff_ids, "type": "layers"},
        }
    )
