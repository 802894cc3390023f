"""Pulling from a registry that behaves, refuses, breaks off, lies, or is slow."""

from __future__ import annotations

import asyncio
import io
import json
import os
import stat
from collections.abc import AsyncIterator
from typing import Any

import pytest
import zstandard
from aiohttp import web

from api.errors import InvalidArgument, NotFound, Upstream
from api.types.auth import AuthConfig
from tests.unit.images.archives import TestImage, digest_of, files, two_layers
from tests.unit.images.conftest import Host
from tests.unit.images.registry_server import RegistryServer
from worker.engine.images.registry import RegistryConfig
from worker.engine.images.service import ImageService

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="owners and whiteouts need root")]


@pytest.fixture
async def registry() -> AsyncIterator[RegistryServer]:
    async with RegistryServer() as registry:
        yield registry


@pytest.fixture
def service(host: Host) -> ImageService:
    return ImageService(host.store, RegistryConfig(retry_delay_s=0.01))


async def nothing_left(host: Host) -> bool:
    blobs, layers = await host.files()
    return not blobs and not layers and not host.store.index.images and not host.store.pins


@pytest.mark.promise("images.create.b1", "images.create.b3")
async def test_a_pulled_image_is_whole_and_named(host: Host, service: ImageService, registry: RegistryServer) -> None:
    image = two_layers()
    digest = registry.add("team/app", "v1", image)
    messages: list[dict[str, Any]] = []
    pulled = await service.pull(f"{registry.host}/team/app:v1", progress=messages.append)
    assert pulled == image.id
    view = await host.store.resolve(f"{registry.host}/team/app:v1")
    assert view.config["Cmd"] == ["/bin/true"]
    lower, upper = view.layers
    assert (lower / "etc/keep").read_bytes() == b"k" * 5000
    gone = os.stat(upper / "etc/gone")
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert (await host.store.resolve(f"{registry.host}/team/app@{digest}")).id == image.id
    statuses = [message["status"] for message in messages]
    assert statuses[0] == "Pulling from team/app"
    assert messages[0]["id"] == "v1"
    assert statuses[-2:] == [
        f"Digest: {digest}",
        f"Status: Downloaded newer image for {registry.host}/team/app:v1",
    ]
    assert statuses.count("Pull complete") == 2
    assert {"Pulling fs layer", "Verifying Checksum", "Download complete"} <= set(statuses)
    assert host.events.seen[-1][:3] == ("image", "pull", f"{registry.host}/team/app:v1")


async def test_a_second_pull_downloads_nothing(service: ImageService, registry: RegistryServer) -> None:
    registry.add("app", "latest", two_layers())
    await service.pull(f"{registry.host}/app")
    before = len([request for request in registry.requests if "/blobs/" in request])
    messages: list[dict[str, Any]] = []
    await service.pull(f"{registry.host}/app", progress=messages.append)
    asked = [request for request in registry.requests if "/blobs/" in request][before:]
    assert len(asked) == 1  # the configuration
    assert messages[-1]["status"] == f"Status: Image is up to date for {registry.host}/app:latest"


async def test_a_shared_layer_is_not_fetched_again(service: ImageService, registry: RegistryServer) -> None:
    first = two_layers()
    second = TestImage([first.layers[0], files({"c": b"3"})])
    registry.add("app", "1", first)
    registry.add("app", "2", second)
    await service.pull(f"{registry.host}/app:1")
    messages: list[dict[str, Any]] = []
    await service.pull(f"{registry.host}/app:2", progress=messages.append)
    shared = digest_of(first.blobs()[0])
    assert registry.requests.count(f"GET /v2/app/blobs/{shared}") == 1
    assert "Already exists" in [message["status"] for message in messages]


async def test_pulls_at_once_fetch_a_layer_once(service: ImageService, registry: RegistryServer) -> None:
    """As when several replicas of a service start on one node."""
    image = two_layers()
    registry.add("app", "latest", image)
    async with asyncio.TaskGroup() as group:
        pulls = [group.create_task(service.pull(f"{registry.host}/app")) for _ in range(5)]
    assert {pull.result() for pull in pulls} == {image.id}
    for blob in image.blobs():
        assert registry.requests.count(f"GET /v2/app/blobs/{digest_of(blob)}") == 1


async def test_an_index_gives_the_image_of_this_machine(service: ImageService, registry: RegistryServer) -> None:
    image, other = two_layers(), TestImage([files({"other": b""})])
    entries = []
    for one, architecture in ((other, "s390x"), (image, "amd64")):
        digest = registry.add("multi", architecture, one)
        entries.append(
            {"digest": digest, "size": 1, "platform": {"os": "linux", "architecture": architecture}, "mediaType": "m"}
        )
    kind = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    registry.add_manifest("multi", "latest", index, kind)
    assert await service.pull(f"{registry.host}/multi") == image.id
    only = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries[:1]}).encode()
    registry.add_manifest("multi", "odd", only, kind)
    with pytest.raises(NotFound, match="no matching manifest for linux/amd64"):
        await service.pull(f"{registry.host}/multi:odd")


async def test_zstd_layers(host: Host, service: ImageService, registry: RegistryServer) -> None:
    class Zstd(TestImage):
        def blobs(self) -> list[bytes]:
            return [zstandard.compress(layer) for layer in self.layers]

    registry.add("z", "latest", Zstd([files({"a": b"1"})]))
    await service.pull(f"{registry.host}/z")
    (layer,) = (await host.store.resolve(f"{registry.host}/z")).layers
    assert (layer / "a").read_bytes() == b"1"


@pytest.mark.promise("images.create.b10")
async def test_all_tags(host: Host, service: ImageService, registry: RegistryServer) -> None:
    registry.add("app", "1", two_layers())
    registry.add("app", "2", TestImage([files({"c": b"3"})]))
    await service.pull_tags(f"{registry.host}/app", "", None, lambda _message: None)
    tags = {tag for summary in service.list({}) for tag in summary.repo_tags}
    assert tags == {f"{registry.host}/app:1", f"{registry.host}/app:2"}


@pytest.mark.promise("images.create.b11", "images.create.query.tag")
async def test_tag_may_be_a_digest(service: ImageService, registry: RegistryServer) -> None:
    digest = registry.add("app", "1", two_layers())
    await service.pull_tags(f"{registry.host}/app", digest, None, lambda _message: None)
    (summary,) = service.list({})
    assert summary.repo_digests == [f"{registry.host}/app@{digest}"]
    assert summary.repo_tags == ["<none>:<none>"]


class TestLogin:
    async def test_an_anonymous_token(self, service: ImageService, registry: RegistryServer) -> None:
        registry.tokens_needed = True
        registry.add("app", "latest", two_layers())
        await service.pull(f"{registry.host}/app")
        assert "GET /token repository:app:pull" in registry.requests

    @pytest.mark.promise("images.create.b12")
    async def test_a_token_for_a_password(self, service: ImageService, registry: RegistryServer) -> None:
        registry.tokens_needed, registry.password = True, "secret"
        registry.add("app", "latest", two_layers())
        await service.pull(f"{registry.host}/app", AuthConfig(username="user", password="secret"))

    async def test_a_basic_password(self, service: ImageService, registry: RegistryServer) -> None:
        registry.password = "secret"
        registry.add("app", "latest", two_layers())
        await service.pull(f"{registry.host}/app", AuthConfig(username="user", password="secret"))

    @pytest.mark.parametrize("tokens", [True, False])
    async def test_a_wrong_password(
        self, host: Host, service: ImageService, registry: RegistryServer, tokens: bool
    ) -> None:
        registry.tokens_needed, registry.password = tokens, "secret"
        registry.add("app", "latest", two_layers())
        with pytest.raises(NotFound, match=r"pull access denied for .*/app, repository does not exist or may require"):
            await service.pull(f"{registry.host}/app", AuthConfig(username="user", password="wrong"))
        assert await nothing_left(host)

    def test_a_password_is_masked(self) -> None:
        assert "hunter2" not in repr(AuthConfig(username="user", password="hunter2"))

    async def test_a_mirror_never_sees_credentials(self, host: Host, registry: RegistryServer) -> None:
        registry.add("library/app", "latest", two_layers())
        service = ImageService(host.store, RegistryConfig(mirrors=[f"http://{registry.host}"]))
        await service.pull("app", AuthConfig(username="user", password="secret"))
        assert set(registry.authorizations) == {""}


class TestRefusals:
    @pytest.mark.promise("images.create.status.404", "images.create.b14")
    async def test_an_unknown_tag(self, host: Host, service: ImageService, registry: RegistryServer) -> None:
        registry.add("app", "latest", two_layers())
        with pytest.raises(NotFound) as caught:
            await service.pull(f"{registry.host}/app:nope")
        expected = f"manifest for {registry.host}/app:nope not found: manifest unknown: manifest unknown"
        assert caught.value.message == expected
        assert await nothing_left(host)

    async def test_an_unknown_repository(self, service: ImageService, registry: RegistryServer) -> None:
        with pytest.raises(NotFound) as caught:
            await service.pull(f"{registry.host}/none")
        assert caught.value.message == (
            f"pull access denied for {registry.host}/none, repository does not exist or may require 'docker login': "
            "denied: requested access to the resource is denied"
        )

    async def test_a_registry_that_is_not_there(self, service: ImageService) -> None:
        with pytest.raises(Upstream, match=r"127\.0\.0\.1:1"):
            await service.pull("127.0.0.1:1/app")


class TestFaults:
    @pytest.mark.parametrize("status", [429, 500, 503])
    async def test_a_passing_trouble_is_sat_out(
        self, service: ImageService, registry: RegistryServer, status: int
    ) -> None:
        image = two_layers()
        registry.add("app", "latest", image)
        registry.fault = lambda _request, seen: web.Response(status=status) if seen < 2 else None
        assert await service.pull(f"{registry.host}/app") == image.id

    async def test_a_lasting_trouble_fails(self, host: Host, service: ImageService, registry: RegistryServer) -> None:
        registry.add("app", "latest", two_layers())
        registry.fault = lambda request, _seen: web.Response(status=500) if "/blobs/" in request.path else None
        with pytest.raises(Upstream, match="500"):
            await service.pull(f"{registry.host}/app")
        assert await nothing_left(host)

    @pytest.mark.parametrize("ranges", [True, False])
    async def test_a_download_that_breaks_off_is_resumed(
        self, service: ImageService, registry: RegistryServer, ranges: bool
    ) -> None:
        image = TestImage([files({"random": os.urandom(300_000)})])
        registry.add("app", "latest", image)
        registry.ranges = ranges
        blob = image.blobs()[0]

        def cut(request: web.Request, seen: int) -> web.StreamResponse | None:
            if digest_of(blob) not in request.path or seen > 0:
                return None
            return web.Response(body=blob[:100_000])

        registry.fault = cut
        assert await service.pull(f"{registry.host}/app") == image.id

    async def test_a_download_that_stays_short(
        self, host: Host, service: ImageService, registry: RegistryServer
    ) -> None:
        image = two_layers()
        registry.add("app", "latest", image)
        digest = digest_of(image.blobs()[1])
        registry.blobs[digest] = registry.blobs[digest][:-7]
        with pytest.raises(Upstream, match="broke off after"):
            await service.pull(f"{registry.host}/app")
        assert await nothing_left(host)

    async def test_a_wrong_layer(self, host: Host, service: ImageService, registry: RegistryServer) -> None:
        image = two_layers()
        registry.add("app", "latest", image)
        digest = digest_of(image.blobs()[0])
        wrong = bytearray(registry.blobs[digest])
        wrong[-1] ^= 1
        registry.blobs[digest] = bytes(wrong)
        with pytest.raises(Upstream, match=f"filesystem layer verification failed for digest {digest}"):
            await service.pull(f"{registry.host}/app")
        assert await nothing_left(host)

    async def test_a_layer_that_is_too_large(self, host: Host, service: ImageService, registry: RegistryServer) -> None:
        image = two_layers()
        registry.add("app", "latest", image)
        registry.blobs[digest_of(image.blobs()[0])] += bytes(1000)
        with pytest.raises(Upstream, match="larger than the manifest says"):
            await service.pull(f"{registry.host}/app")
        assert await nothing_left(host)

    async def test_a_wrong_configuration(self, host: Host, service: ImageService, registry: RegistryServer) -> None:
        image = two_layers()
        registry.add("app", "latest", image)
        registry.blobs[image.id] = image.config.replace(b"amd64", b"amd65")
        with pytest.raises(Upstream, match="verification failed"):
            await service.pull(f"{registry.host}/app")
        assert await nothing_left(host)

    async def test_a_wrong_manifest(self, service: ImageService, registry: RegistryServer) -> None:
        digest = registry.add("app", "latest", two_layers())
        raw, kind = registry.manifests["app", digest]
        registry.manifests["app", digest] = (raw + b" ", kind)
        with pytest.raises(Upstream, match=f"manifest verification failed for digest {digest}"):
            await service.pull(f"{registry.host}/app@{digest}")

    async def test_a_layer_that_is_not_what_the_configuration_says(
        self, host: Host, service: ImageService, registry: RegistryServer
    ) -> None:
        class Liar(TestImage):
            def blobs(self) -> list[bytes]:
                return [io.BytesIO(files({"evil": b"!"})).getvalue()]

        registry.add("app", "latest", Liar([files({"good": b"1"})]))
        with pytest.raises(InvalidArgument, match="diff id"):
            await service.pull(f"{registry.host}/app")
        assert await nothing_left(host)

    @pytest.mark.promise("images.create.b5")
    async def test_a_cancelled_pull_keeps_nothing(
        self, host: Host, service: ImageService, registry: RegistryServer
    ) -> None:
        image = TestImage([files({"random": os.urandom(100_000)}), files({"b": b"2"})])
        registry.add("app", "latest", image)
        reached = asyncio.Event()
        never = asyncio.Event()

        class Stuck(web.StreamResponse):
            async def write_eof(self, data: bytes = b"") -> None:
                reached.set()
                await never.wait()

        slow = digest_of(image.blobs()[0])
        registry.fault = lambda request, _seen: Stuck() if slow in request.path else None
        async with asyncio.TaskGroup() as group:
            pull = group.create_task(service.pull(f"{registry.host}/app"))
            await reached.wait()
            pull.cancel()
        never.set()
        assert await nothing_left(host)


async def test_a_mirror_that_fails_gives_way(host: Host, registry: RegistryServer) -> None:
    registry.add("library/app", "latest", two_layers())
    service = ImageService(
        host.store, RegistryConfig(mirrors=["http://127.0.0.1:1", f"http://{registry.host}"], retry_delay_s=0.01)
    )
    await service.pull("app")
    assert (await host.store.resolve("app")).id == two_layers().id
