"""Small archives and images for tests."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A tar member; `type`, `linkname`, `mode`, `uid`, `pax_headers` ... as keywords."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1_500_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return output.getvalue()


def files(content: Mapping[str, bytes]) -> bytes:
    return tar(*(member(name, data) for name, data in content.items()))


@dataclass
class TestImage:
    """An image as a registry or an archive has it."""

    __test__ = False

    layers: Sequence[bytes]
    config_extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> bytes:
        diff_ids = [digest_of(layer) for layer in self.layers]
        return json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": "2021-02-03T04:05:06.789Z",
                "config": {"Cmd": ["/bin/true"], "Labels": {"com.example.kind": "test"}},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
                "history": [
                    {"created": "2021-02-03T04:05:06Z", "created_by": f"step {number}"}
                    for number in range(len(diff_ids))
                ],
                **self.config_extra,
            }
        ).encode()

    @property
    def id(self) -> str:
        return digest_of(self.config)

    def blobs(self) -> list[bytes]:
        """The layers as a registry keeps them."""
        return [gzip.compress(layer, mtime=0) for layer in self.layers]

    def manifest(self) -> bytes:
        kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "config": {
                    "mediaType": "application/vnd.docker.container.image.v1+json",
                    "size": len(self.config),
                    "digest": self.id,
                },
                "layers": [{"mediaType": kind, "size": len(blob), "digest": digest_of(blob)} for blob in self.blobs()],
            }
        ).encode()


def two_layers() -> TestImage:
    return TestImage([files({"a": b"1", "etc/keep": b"k" * 5000}), files({"b": b"2", "etc/.wh.gone": b""})])


async def stream(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    """As a request body arrives."""
    for at in range(0, len(data), size):
        yield data[at : at + size]
