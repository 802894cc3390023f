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
PLUGIN_CONFIG = "application/vnd.docker.plugin.v1+json"
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


_INDEXES, _MANIFESTS = (OCI_INDEX, DOCKER_LIST), (OCI_MANIFEST, DOCKER_MANIFEST)
_decoder = msgspec.json.Decoder(Manifest)


def parse_manifest(raw: bytes, sent_as: str = "") -> Manifest:
    """A manifest or an index. Raises InvalidArgument naming what is wrong.

    A document that could be read as either (or as something else than it was sent as) is refused: who checked it may
    have read it the other way (CVE-2021-41190).

    Args:
        sent_as: the media type it came with.
    """
    try:
        manifest = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"invalid manifest: {error}") from error
    if manifest.schemaVersion != 2:
        raise InvalidArgument(f"unsupported manifest schema version {manifest.schemaVersion}")
    if manifest.manifests and (manifest.config is not None or manifest.layers):
        raise InvalidArgument("invalid manifest: it names both manifests and layers")
    if (manifest.mediaType in _INDEXES and not manifest.is_index) or (
        manifest.mediaType in _MANIFESTS and manifest.is_index
    ):
        raise InvalidArgument(f"invalid manifest: it is not what its media type {manifest.mediaType} says")
    if manifest.mediaType and sent_as in (*_INDEXES, *_MANIFESTS) and sent_as != manifest.mediaType:
        raise InvalidArgument(f"invalid manifest: sent as {sent_as}, but its media type is {manifest.mediaType}")
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


def check_artifact(config: Descriptor, wanted: str) -> None:
    """Whether a manifest's configuration is of the kind that is wanted: a media type; "" is an image's, by whatever
    name, but no plugin's. Raises InvalidArgument with Docker's text."""
    if wanted in ("", config.mediaType) and (wanted or config.mediaType != PLUGIN_CONFIG):
        return
    kind = "plugin" if config.mediaType == PLUGIN_CONFIG else "image"
    raise InvalidArgument(f'Encountered remote "{config.mediaType}"({kind}) when fetching')


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
