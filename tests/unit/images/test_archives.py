"""Load, save and import."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import tarfile
from typing import Any

import pytest

from api.errors import InvalidArgument, NotFound
from tests.unit.images.archives import TestImage, digest_of, files, member, stream, tar, two_layers
from tests.unit.images.conftest import Host
from worker.engine.builder.changes import apply_changes
from worker.engine.images.progress import PENDING_MAX, Feed, Message, Report, bar, drive, human_size
from worker.engine.images.registry import RegistryConfig
from worker.engine.images.service import ImageService

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="owners and whiteouts need root")]


@pytest.fixture
def service(host: Host) -> ImageService:
    return ImageService(host.store, RegistryConfig())


class Messages(list[dict[str, Any]]):
    def streams(self) -> list[str]:
        return [message["stream"] for message in self if "stream" in message]


def docker_archive(image: TestImage, *tags: str) -> bytes:
    layers = [f"{number}/layer.tar" for number in range(len(image.layers))]
    manifest = [{"Config": "config.json", "RepoTags": list(tags) or None, "Layers": layers}]
    content = dict(zip(layers, image.layers, strict=True))
    return files({**content, "config.json": image.config, "manifest.json": json.dumps(manifest).encode()})


def oci_archive(image: TestImage, name: str) -> bytes:
    raw = image.manifest()
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest_of(raw),
        "size": len(raw),
        "annotations": {"io.containerd.image.name": name},
    }
    blobs = {f"blobs/sha256/{digest_of(data)[7:]}": data for data in (raw, image.config, *image.blobs())}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    return files({"oci-layout": b"{}", "index.json": index, **blobs})


async def save(service: ImageService, *wanted: str) -> bytes:
    return b"".join([piece async for piece in service.save(wanted)])


@pytest.mark.parametrize("compressed", [False, True])
async def test_load_a_docker_archive(host: Host, service: ImageService, compressed: bool) -> None:
    image = two_layers()
    archive = docker_archive(image, "app:v1", "app:v2")
    messages = Messages()
    loaded = await service.load(stream(gzip.compress(archive) if compressed else archive), messages.append)
    assert loaded == [image.id]
    assert messages.streams() == ["Loaded image: app:v1\n", "Loaded image: app:v2\n"]
    assert any(message.get("status") == "Loading layer" for message in messages)
    assert (await host.store.resolve("app:v2")).id == image.id
    assert host.events.actions() == ["load"]


async def test_quiet_and_nameless(service: ImageService) -> None:
    image = two_layers()
    messages = Messages()
    await service.load(stream(docker_archive(image)), messages.append, quiet=True)
    assert messages == [{"stream": f"Loaded image ID: {image.id}\n"}]


async def test_load_an_oci_layout(host: Host, service: ImageService) -> None:
    image = two_layers()
    messages = Messages()
    await service.load(stream(oci_archive(image, "docker.io/library/app:v1")), messages.append)
    assert messages.streams() == ["Loaded image: app:v1\n"]
    assert (await host.store.resolve("app:v1")).id == image.id


async def test_layers_may_be_links(host: Host, service: ImageService) -> None:
    image = TestImage([files({"a": b"1"}), files({"a": b"1"})])
    manifest = [{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["0/layer.tar", "1/layer.tar"]}]
    archive = tar(
        member("0/layer.tar", image.layers[0]),
        member("1/layer.tar", type=tarfile.SYMTYPE, linkname="../0/layer.tar"),
        member("c.json", image.config),
        member("manifest.json", json.dumps(manifest).encode()),
    )
    await service.load(stream(archive), Messages().append)
    assert len((await host.store.resolve("app:1")).layers) == 2


async def test_what_is_saved_can_be_loaded_elsewhere(host: Host, service: ImageService, tmp_path: Any) -> None:
    image = two_layers()
    second = TestImage([image.layers[0], files({"c": b"3"})])
    await service.load(stream(docker_archive(image, "app:1", "other:x")), Messages().append)
    await service.load(stream(docker_archive(second, "app:2")), Messages().append)
    archive = await save(service, "app", image.id)
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        saved = set(opened.getnames())
        manifest = json.load(opened.extractfile("manifest.json") or io.BytesIO())
        repositories = json.load(opened.extractfile("repositories") or io.BytesIO())
    assert {one: tag for entry in manifest for one, tag in [(entry["Config"], entry["RepoTags"])]} == {
        image.id[7:] + ".json": ["app:1"],
        second.id[7:] + ".json": ["app:2"],
    }
    assert set(repositories) == {"app"}
    assert set(repositories["app"]) == {"1", "2"}
    top = repositories["app"]["1"]
    assert {f"{top}/VERSION", f"{top}/json", f"{top}/layer.tar"} <= saved
    assert len([name for name in saved if name.endswith("/layer.tar")]) == 3  # the shared one once
    other = Host(tmp_path / "other")
    await other.open()
    loaded = await ImageService(other.store, RegistryConfig()).load(stream(archive), Messages().append)
    await other.shut()
    assert set(loaded) == {image.id, second.id}


async def test_saving_by_id_names_nothing(service: ImageService) -> None:
    image = two_layers()
    await service.load(stream(docker_archive(image, "app:1")), Messages().append)
    with tarfile.open(fileobj=io.BytesIO(await save(service, image.id))) as opened:
        assert "repositories" not in opened.getnames()


async def test_saving_the_unknown(service: ImageService) -> None:
    with pytest.raises(NotFound, match=r"No such image: nope$"):
        await save(service, "nope")


class TestBadArchives:
    async def refused(self, host: Host, service: ImageService, archive: bytes, match: str) -> None:
        with pytest.raises(InvalidArgument, match=match):
            await service.load(stream(archive), Messages().append)
        assert await host.files() == (set(), set())
        assert not host.store.pins

    async def test_no_archive(self, host: Host, service: ImageService) -> None:
        await self.refused(host, service, b"", "neither manifest.json nor index.json")
        await self.refused(host, service, b"nonsense" * 200, "invalid tar header")

    async def test_cut(self, host: Host, service: ImageService) -> None:
        archive = docker_archive(two_layers(), "app:1")
        await self.refused(host, service, archive[:3000], "unexpected end of archive")
        await self.refused(host, service, gzip.compress(archive)[:-20], "damaged")

    async def test_a_missing_layer(self, host: Host, service: ImageService) -> None:
        image = two_layers()
        manifest = json.dumps([{"Config": "c", "RepoTags": None, "Layers": ["x", "y"]}]).encode()
        await self.refused(host, service, files({"c": image.config, "manifest.json": manifest}), "'x' is missing")

    async def test_wrong_layers(self, host: Host, service: ImageService) -> None:
        image = two_layers()
        other = TestImage([files({"evil": b""}), files({"b": b""})])
        manifest = json.dumps([{"Config": "c", "RepoTags": None, "Layers": ["x", "y"]}]).encode()
        content = {"c": image.config, "x": other.layers[0], "y": other.layers[1], "manifest.json": manifest}
        await self.refused(host, service, files(content), "diff id")

    async def test_a_wrong_type_names_the_field(self, host: Host, service: ImageService) -> None:
        await self.refused(host, service, files({"manifest.json": b'[{"Config": 1, "Layers": []}]'}), "Config")

    async def test_links_in_a_circle(self, host: Host, service: ImageService) -> None:
        archive = tar(
            member("manifest.json", type=tarfile.SYMTYPE, linkname="b"),
            member("b", type=tarfile.SYMTYPE, linkname="manifest.json"),
        )
        await self.refused(host, service, archive, "too many links")


class TestImport:
    @pytest.mark.promise("images.create.b8", "images.create.b9", "images.create.query.repo")
    async def test_from_the_body(self, host: Host, service: ImageService) -> None:
        messages = Messages()
        archive = gzip.compress(files({"bin/sh": b"#!"}))
        changes = ['CMD ["/bin/sh"]', "ENV A=1 B=2", "LABEL k=v", "EXPOSE 80"]
        image = await service.import_image("-", stream(archive), "app:v1", "", changes, messages.append)
        assert messages == [{"status": image}]
        view = await host.store.resolve("app:v1")
        assert view.id == image
        assert (view.layers[0] / "bin/sh").read_bytes() == b"#!"
        assert view.config == {
            "Cmd": ["/bin/sh"], "Env": ["A=1", "B=2"], "Labels": {"k": "v"}, "ExposedPorts": {"80/tcp": {}},
        }  # fmt: skip
        assert service.inspect(image).comment == "Imported from -"

    @pytest.mark.parametrize("body", [b"", b"not a tar at all" * 64])
    async def test_nonsense(self, host: Host, service: ImageService, body: bytes) -> None:
        with pytest.raises(InvalidArgument):
            await service.import_image("-", stream(body), "", "", [], Messages().append)
        assert await host.files() == (set(), set())


@pytest.mark.parametrize(
    ("change", "told"), [("RUN x", "run is not a valid change"), ("EXPOSE x", "containerPort"),
                         ("LABEL a=1 b", "can't find = in")],
)  # fmt: skip
def test_bad_changes(change: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        apply_changes({}, [change])


def test_progress_bar() -> None:
    assert bar(0, 100) == "[>" + " " * 49 + "]  0B/100B"
    assert bar(50, 100) == "[" + "=" * 25 + ">" + " " * 24 + "]  50B/100B"
    assert bar(100, 100) == "[" + "=" * 50 + "]  100B/100B"
    assert bar(5, 0) == "5B"
    assert human_size(32_768) == "32.77kB"


async def test_a_slow_client_makes_an_endless_worker_wait() -> None:
    taken: list[Message] = []
    reported = 0

    async def work(report: Report) -> None:
        nonlocal reported
        assert isinstance(report, Feed)
        while len(taken) < 3:
            report({"stream": "x"})
            reported += 1
            await report.room()

    async def send(message: Message) -> None:
        taken.append(message)
        for _ in range(5 * PENDING_MAX if len(taken) < 4 else 0):
            await asyncio.sleep(0)

    await drive(work, send)
    assert len(taken) == reported, "all of it was sent"
    assert PENDING_MAX <= reported <= PENDING_MAX + 4
