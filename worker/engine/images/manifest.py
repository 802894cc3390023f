"""Manifests and indexes of registries: OCI image spec and Docker schema 2, one reading for both. Pure."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import msgspec

from api.errors import InvalidArgument, NotFound
from worker.engine.images import limits, names

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
ACCEPTED = (DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX)

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_FOREIGN = ("application/vnd.docker.image.rootfs.foreign", "application/vnd.oci.image.layer.nondistributable")


class Platform(msgspec.Struct, kw_only=True):
    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, kw_only=True):
    """Names a blob: digest, size in bytes, and what it is."""

    mediaType: str = ""  # noqa: N815 - the format's own key
    digest: str
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class Manifest(msgspec.Struct, kw_only=True):
    """A manifest (config and layers) or an index (manifests)."""

    schemaVersion: int = 2  # noqa: N815
    mediaType: str = ""  # noqa: N815
    config: Descriptor | None = None
    layers: list[Descriptor] = []
    manifests: list[Descriptor] = []

    @property
    def is_index(self) -> bool:
        return self.config is None and (bool(self.manifests) or self.mediaType in (OCI_INDEX, DOCKER_LIST))


_decoder = msgspec.json.Decoder(Manifest)


def parse_manifest(raw: bytes) -> Manifest:
    """A manifest or an index. Raises InvalidArgument naming what is wrong."""
    try:
        manifest = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"invalid manifest: {error}") from error
    if manifest.schemaVersion != 2:
        raise InvalidArgument(f"unsupported manifest schema version {manifest.schemaVersion}")
    if not manifest.is_index and manifest.config is None:
        raise InvalidArgument("invalid manifest: it names no configuration")
    if len(manifest.layers) > limits.LAYERS_MAX:
        raise InvalidArgument(f"image has more than {limits.LAYERS_MAX} layers")
    parts = [*manifest.layers, *manifest.manifests, *([manifest.config] if manifest.config else [])]
    for part in parts:
        names.check_digest(part.digest)
        if part.size < 0:
            raise InvalidArgument(f"invalid manifest: negative size of {part.digest}")
    if any(layer.mediaType.startswith(_FOREIGN) for layer in manifest.layers):
        raise InvalidArgument("image has foreign layers, which are not supported")
    return manifest


def host_architecture() -> str:
    """This machine in the images' words (`amd64`)."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def choose_platform(manifests: Sequence[Descriptor], architecture: str) -> Descriptor:
    """The manifest of an index that fits linux on `architecture`. Raises NotFound with Docker's text."""
    for descriptor in manifests:
        where = descriptor.platform
        if where is not None and where.os == "linux" and where.architecture == architecture:
            return descriptor
    unknown = [descriptor for descriptor in manifests if descriptor.platform is None]
    if len(manifests) == 1 and unknown:
        return unknown[0]
    raise NotFound(f"no matching manifest for linux/{architecture} in the manifest list entries")
