"""Reading image archives: docker-archive (`docker save`) and OCI layout, as one plan of images. Blocking.

The archive lies in one plain tar file on disk; members are found by offset, so nothing large is read into memory.
Source: v1.24 "Image tarball format"; OCI image-layout spec 1.1.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from api.errors import InvalidArgument
from worker.engine.images import limits, names
from worker.engine.images.blobs import BlobWriter
from worker.engine.images.extract import clean_path
from worker.engine.images.manifest import Descriptor, choose_platform, host_architecture, parse_manifest
from worker.engine.images.names import Reference
from worker.engine.images.tarstream import FILE, HARD_LINK, SYMLINK, TarReader

_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_LINKS_MAX = 8


@dataclass(frozen=True)
class Slice:
    """Where a member's data lies in the archive."""

    offset: int
    size: int


@dataclass(frozen=True)
class ArchivedImage:
    """One image of an archive."""

    config: bytes
    layers: tuple[Slice, ...]
    """Lowest first; each may be compressed."""
    references: tuple[Reference, ...]


class _ManifestEntry(msgspec.Struct, kw_only=True):
    """One item of manifest.json."""

    config: str = msgspec.field(name="Config")
    layers: list[str] = msgspec.field(name="Layers")
    repo_tags: list[str] | None = msgspec.field(name="RepoTags", default=None)


class Archive:
    """An opened archive. Use `open_archive`."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._members: dict[str, Slice] = {}
        self._links: dict[str, str] = {}
        self._read_members()

    def _read_members(self) -> None:
        for member in TarReader(self._file):
            path = clean_path(member.name, member.name)
            if member.kind == FILE:
                self._members[path] = Slice(self._file.tell(), member.size)
            elif member.kind == HARD_LINK:
                self._links[path] = clean_path(member.link, member.name)
            elif member.kind == SYMLINK:
                target = posixpath.join(posixpath.dirname(path), member.link)
                self._links[path] = clean_path(target, member.name)

    def _find(self, name: str) -> Slice | None:
        path = clean_path(name, name)
        for _ in range(_LINKS_MAX):
            found = self._members.get(path)
            if found is not None or path not in self._links:
                return found
            path = self._links[path]
        raise InvalidArgument(f"invalid image archive: too many links at {name!r}")

    def _get(self, name: str) -> Slice:
        found = self._find(name)
        if found is None:
            raise InvalidArgument(f"invalid image archive: {name!r} is missing")
        return found

    def _read(self, name: str) -> bytes:
        where = self._get(name)
        if where.size > limits.METADATA_MEMBER_MAX:
            raise InvalidArgument(f"invalid image archive: {name!r} is larger than {limits.METADATA_MEMBER_MAX}")
        self._file.seek(where.offset)
        return self._file.read(where.size)

    def close(self) -> None:
        self._file.close()

    def copy(self, where: Slice, writer: BlobWriter) -> None:
        """Copy a member's data."""
        self._file.seek(where.offset)
        left = where.size
        while left:
            data = self._file.read(min(left, limits.CHUNK))
            if not data:
                raise InvalidArgument("unexpected end of image archive")
            writer.write(data)
            left -= len(data)

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
            yield ArchivedImage(self._read(entry.config), tuple(map(self._get, entry.layers)), references)

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


def open_archive(path: Path) -> Archive:
    """Open an uncompressed archive. Close it after use."""
    file = open(path, "rb")  # noqa: SIM115 - the Archive owns it
    try:
        return Archive(file)
    except BaseException:
        file.close()
        raise
