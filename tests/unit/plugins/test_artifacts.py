"""Artifacts of plugins: from an archive to a registry and back, what other engines push, and what is collected."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.errors import InvalidArgument, NotFound
from base.clock import SystemClock
from tests.unit.images.archives import digest_of, files, member, tar
from tests.unit.images.registry_server import RegistryServer
from tests.unit.plugins.test_config import LEAST
from worker.engine.images import names
from worker.engine.images.manifest import DOCKER_LAYER, DOCKER_MANIFEST, PLUGIN_CONFIG
from worker.engine.images.progress import silent
from worker.engine.images.registry import RegistryConfig
from worker.engine.plugins.artifacts import Artifacts
from worker.engine.records import Records


class Host:
    """The artifacts of a data root, through restarts of the daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def open(self) -> Artifacts:
        self._records = Records(self.root / "plugins.db")
        await self._records.open()
        self.artifacts = Artifacts(self._records, self.root, RegistryConfig(), SystemClock())
        await self.artifacts.start_up()
        return self.artifacts

    async def close(self) -> None:
        await self.artifacts.close()
        await self._records.close()

    def stored(self) -> set[str]:
        return {path.name for part in ("blobs/sha256", "layers") for path in (self.root / part).iterdir()}


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(tmp_path)
    await host.open()
    yield host
    await host.close()


async def body(data: bytes) -> AsyncIterator[bytes]:
    yield data[: len(data) // 2]
    yield data[len(data) // 2 :]


def archive(**changes: object) -> bytes:
    document = json.dumps(LEAST | {"description": "made"} | changes).encode()
    return files({"config.json": document, "rootfs/run": b"#!/bin/sh\n", "elsewhere": b"not in it"})


async def test_made_pushed_collected_and_pulled(host: Host) -> None:
    async with RegistryServer() as registry:
        reference = names.parse(f"{registry.host}/acme/p:1")
        made = await host.artifacts.make(body(gzip.compress(archive(RootFS={"type": "layers", "diff_ids": ["x"]}))))
        assert (await host.artifacts.config(made)).description == "made"
        (layer,) = await host.artifacts.layers(made)
        assert sorted(path.name for path in layer.iterdir()) == ["run"]
        await host.artifacts.push(reference, made, None, silent)
        manifest = json.loads(registry.manifests["acme/p", "1"][0])
        assert manifest["config"]["mediaType"] == PLUGIN_CONFIG
        assert manifest["config"]["digest"] == made

        with host.artifacts.arrival():
            await host.artifacts.collect(())
            assert (await host.artifacts.layers(made))[0].is_dir(), "something arrives: nothing is collected"
        await host.artifacts.collect(())
        with pytest.raises(NotFound):
            await host.artifacts.layers(made)
        await host.close()
        await host.open()
        assert host.stored() == set()

        assert await host.artifacts.pull(reference, None) == made
        assert ((await host.artifacts.layers(made))[0] / "run").read_bytes() == b"#!/bin/sh\n"
        await host.close()
        await host.open()
        assert (await host.artifacts.config(made)).entrypoint == ["/run"]


async def test_dockerds_diff_ids_are_those_of_compressed_layers(host: Host) -> None:
    packed = [gzip.compress(files({"a": b"1", "b": b"1"})), gzip.compress(files({"b": b"2", ".wh.a": b""}))]
    config = json.dumps(LEAST | {"rootfs": {"type": "layers", "diff_ids": [digest_of(packed[0])]}}).encode()
    layers = [{"mediaType": DOCKER_LAYER, "size": len(each), "digest": digest_of(each)} for each in packed]
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": PLUGIN_CONFIG, "size": len(config), "digest": digest_of(config)},
        "layers": layers,
    }
    async with RegistryServer() as registry:
        registry.blobs |= {digest_of(blob): blob for blob in (config, *packed)}
        registry.add_manifest("p", "latest", json.dumps(manifest).encode(), DOCKER_MANIFEST)
        pulled = await host.artifacts.pull(names.parse(f"{registry.host}/p:latest"), None)
    lower, upper = await host.artifacts.layers(pulled)
    assert sorted(path.name for path in lower.iterdir()) == ["a", "b"]
    assert (upper / "b").read_bytes() == b"2"
    await host.close()
    await host.open()
    assert [path.is_dir() for path in await host.artifacts.layers(pulled)] == [True, True]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (files({"rootfs/run": b""}), "has no config.json"),
        (files({"config.json": json.dumps(LEAST).encode()}), "has no directory rootfs"),
        (files({"config.json": b"{}", "rootfs/run": b""}), "Entrypoint is empty"),
        (files({"config.json": json.dumps(LEAST).encode(), "rootfs/../../x": b""}), "rootfs/../../x"),
        (tar(member("config.json", type=b"2", linkname="/etc/hostname"), member("rootfs/run")), "is a link"),
        (
            tar(member("config.json", json.dumps(LEAST).encode()), member("rootfs", type=b"2", linkname="/etc")),
            "has no directory rootfs",
        ),
        (b"no archive at all" * 100, "invalid"),
    ],
)
async def test_archives_that_make_no_plugin(host: Host, data: bytes, text: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        await host.artifacts.make(body(data))
    assert text in error.value.message
    await host.artifacts.collect(())
    await host.close()
    await host.open()
    assert host.stored() == set()
    assert list((host.root / "blobs/tmp").iterdir()) == []
    assert not (host.root / "incoming").exists() or list((host.root / "incoming").iterdir()) == []
