"""Image archives, docker-archive (`docker save`) and OCI layout: what the members of one say about its images.

An archive is read once, from front to back, and every file of it is a blob by then, so nothing large is in memory.
Source: v1.24 "Image tarball format"; OCI image-layout spec 1.1.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from api.errors import InvalidArgument
from worker.engine.images import limits, names
from worker.engine.images.blobs import BlobWriter
from worker.engine.images.compression import LayerReader
from worker.engine.images.extract import clean_path
from worker.engine.images.manifest import Descriptor, choose_platform, host_architecture, parse_manifest
from worker.engine.images.names import Reference
from worker.engine.images.tarstream import BLOCK, FILE, HARD_LINK, SYMLINK, Member, TarReader

_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_LINKS_MAX = 8


@dataclass(frozen=True)
class Part:
    """A file of an archive, kept as a blob."""

    digest: str
    size: int


@dataclass(frozen=True)
class ArchivedImage:
    """One image of an archive."""

    config: bytes
    layers: tuple[Part, ...]
    """Lowest first; each may be compressed."""
    references: tuple[Reference, ...]
    parent: str = ""
    """The id of the image it was built on."""


class _ManifestEntry(msgspec.Struct, kw_only=True):
    """One item of manifest.json."""

    config: str = msgspec.field(name="Config")
    layers: list[str] = msgspec.field(name="Layers")
    repo_tags: list[str] | None = msgspec.field(name="RepoTags", default=None)
    parent: str = msgspec.field(name="Parent", default="")


class ArchiveReader:
    """Takes an archive apart as it comes. Blocking.

    After `members` has given a file, `copy` reads it. `parts` is for the caller to fill; links are kept here.
    """

    def __init__(self, source: LayerReader) -> None:
        self._tar = TarReader(source)
        self._members = iter(self._tar)
        self._count = 0
        self.links: dict[str, str] = {}

    def next_file(self) -> tuple[str, Member] | None:
        """Clean path and header of the next file; None after the last."""
        for member in self._members:
            self._count += 1
            if self._count > limits.ARCHIVE_MEMBERS_MAX:
                raise InvalidArgument(f"image archive has more than {limits.ARCHIVE_MEMBERS_MAX} members")
            path = clean_path(member.name, member.name)
            if member.kind == FILE:
                return path, member
            if member.kind == HARD_LINK:
                self.links[path] = clean_path(member.link, member.name)
            elif member.kind == SYMLINK:
                target = posixpath.join(posixpath.dirname(path), member.link)
                self.links[path] = clean_path(target, member.name)
        return None

    def copy(self, writer: BlobWriter) -> bool:
        """Copy the file's content; returns whether it may be a layer."""
        first = b""
        while data := self._tar.read(limits.CHUNK):
            first = first or data[:BLOCK]
            writer.write(data)
        return writer.size >= BLOCK // 8 and first[:1] not in (b"{", b"[")


class Archive:
    """The images of an archive that was taken apart."""

    def __init__(self, parts: Mapping[str, Part], links: Mapping[str, str], read: Callable[[str], bytes]) -> None:
        """`read` gives the content of a small part by digest."""
        self._parts = parts
        self._links = links
        self._read_blob = read

    def _find(self, name: str) -> Part | None:
        path = clean_path(name, name)
        for _ in range(_LINKS_MAX):
            found = self._parts.get(path)
            if found is not None or path not in self._links:
                return found
            path = self._links[path]
        raise InvalidArgument(f"invalid image archive: too many links at {name!r}")

    def _get(self, name: str) -> Part:
        found = self._find(name)
        if found is None:
            raise InvalidArgument(f"invalid image archive: {name!r} is missing")
        return found

    def _read(self, name: str) -> bytes:
        part = self._get(name)
        if part.size > limits.METADATA_MEMBER_MAX:
            raise InvalidArgument(f"invalid image archive: {name!r} is larger than {limits.METADATA_MEMBER_MAX}")
        return self._read_blob(part.digest)

    def images(self) -> Iterator[ArchivedImage]:
        """Every image of the archive. Raises InvalidArgument for what is neither of the two formats."""
        if self._find("manifest.json") is not None:
            yield from self._docker_images()
        elif self._find("index.json") is not None:
            yield from self._oci_images()
        else:
            raise InvalidArgument("invalid image archive: it has neither manifest.json nor index.json")

    def _docker_images(self) -> Iterator[ArchivedImage]:
        try:
            entries = msgspec.json.decode(self._read("manifest.json"), type=list[_ManifestEntry])
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"invalid image archive: manifest.json: {error}") from error
        for entry in entries:
            references = tuple(names.parse(text).tagged() for text in entry.repo_tags or [])
            layers = tuple(map(self._get, entry.layers))
            yield ArchivedImage(self._read(entry.config), layers, references, entry.parent)

    def _blob(self, digest: str) -> str:
        return "blobs/sha256/" + digest.removeprefix("sha256:")

    def _oci_images(self) -> Iterator[ArchivedImage]:
        for descriptor in parse_manifest(self._read("index.json")).manifests:
            manifest = parse_manifest(self._read(self._blob(descriptor.digest)))
            if manifest.is_index:
                chosen = choose_platform(manifest.manifests, host_architecture())
                manifest = parse_manifest(self._read(self._blob(chosen.digest)))
            if manifest.config is None:
                raise InvalidArgument("invalid image archive: an index within an index")
            yield ArchivedImage(
                self._read(self._blob(manifest.config.digest)),
                tuple(self._get(self._blob(layer.digest)) for layer in manifest.layers),
                _annotated_names(descriptor),
            )


def _annotated_names(descriptor: Descriptor) -> tuple[Reference, ...]:
    for key in _NAME_ANNOTATIONS:
        text = (descriptor.annotations or {}).get(key, "")
        # `ref.name` may hold a bare tag, which names nothing here.
        if text and (key == _NAME_ANNOTATIONS[0] or ":" in text or "/" in text):
            return (names.parse(text).tagged(),)
    return ()
