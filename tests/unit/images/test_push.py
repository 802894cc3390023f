"""Pushing to a registry: what arrives can be pulled again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from api.errors import NotFound, Upstream
from api.types.auth import AuthConfig
from tests.unit.images.archives import TestImage, digest_of, files, stream, two_layers
from tests.unit.images.conftest import Host
from tests.unit.images.registry_server import RegistryServer
from tests.unit.images.test_archives import docker_archive
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


async def load(service: ImageService, image: TestImage, *names: str) -> None:
    await service.load(stream(docker_archive(image, *names)), lambda _message: None)


@pytest.mark.promise("images.push.b1", "images.push.b2", "images.push.b3", "images.push.b5", "images.push.query.tag")
async def test_what_is_pushed_can_be_pulled(host: Host, service: ImageService, registry: RegistryServer) -> None:
    image = two_layers()
    name = f"{registry.host}/team/app"
    await load(service, image, f"{name}:v1")
    messages: list[dict[str, Any]] = []
    before = await host.files()
    await service.push(name, "v1", None, messages.append)
    assert await host.files() == before  # the compressed layers are not kept
    digest = digest_of(registry.manifests["team/app", "v1"][0])
    statuses = [message.get("status") for message in messages]
    assert statuses[0] == f"The push refers to repository [{name}]"
    assert statuses.count("Pushed") == 2
    assert f"v1: digest: {digest} size: {len(registry.manifests['team/app', 'v1'][0])}" in statuses
    assert messages[-1]["aux"]["Digest"] == digest
    assert service.inspect(image.id).repo_digests == [f"{name}@{digest}"]
    assert host.events.seen[-1][:3] == ("image", "push", f"{name}:v1")
    await service.remove(f"{name}:v1", force=False, prune=True)
    assert await host.files() == (set(), set())
    assert await service.pull(f"{name}:v1") == image.id


async def test_what_is_there_is_not_sent_again(service: ImageService, registry: RegistryServer) -> None:
    image = two_layers()
    await load(service, image, f"{registry.host}/app:v1", f"{registry.host}/app:v2")
    await service.push(f"{registry.host}/app", "v1", None, lambda _message: None)
    uploads = len([request for request in registry.requests if request.startswith("PUT /v2/app/blobs")])
    messages: list[dict[str, Any]] = []
    await service.push(f"{registry.host}/app", "v2", None, messages.append)
    assert len([request for request in registry.requests if request.startswith("PUT /v2/app/blobs")]) == uploads == 3
    assert [message.get("status") for message in messages].count("Layer already exists") == 2


async def test_all_tags(service: ImageService, registry: RegistryServer) -> None:
    await load(service, two_layers(), f"{registry.host}/app:v1", f"{registry.host}/app:v2")
    await service.push(f"{registry.host}/app", "", None, lambda _message: None)
    assert {tag for _name, tag in registry.manifests if not tag.startswith("sha256:")} == {"v1", "v2"}


@pytest.mark.promise("images.push.b6")
@pytest.mark.parametrize("tokens", [True, False])
async def test_with_a_password(service: ImageService, registry: RegistryServer, tokens: bool) -> None:
    registry.tokens_needed, registry.password = tokens, "secret"
    await load(service, two_layers(), f"{registry.host}/app:v1")
    auth = AuthConfig(username="user", password="secret")
    await service.push(f"{registry.host}/app", "v1", auth, lambda _message: None)
    if tokens:
        assert "GET /token repository:app:pull,push" in registry.requests
    with pytest.raises(NotFound, match="denied"):
        await service.push(f"{registry.host}/app", "v1", None, lambda _message: None)


@pytest.mark.promise("images.push.b7", "images.push.status.404")
async def test_an_unknown_image(service: ImageService, registry: RegistryServer) -> None:
    with pytest.raises(NotFound, match=f"An image does not exist locally with the tag: {registry.host}/none"):
        await service.push(f"{registry.host}/none", "v1", None, lambda _message: None)


async def test_a_push_that_fails_publishes_nothing(host: Host, service: ImageService, registry: RegistryServer) -> None:
    await load(service, TestImage([files({"a": b"1"})]), f"{registry.host}/app:v1")
    before = await host.files()
    registry.fault = lambda request, _seen: web.Response(status=507) if request.method == "PUT" else None
    with pytest.raises(Upstream, match="507"):
        await service.push(f"{registry.host}/app", "v1", None, lambda _message: None)
    assert registry.manifests == {}
    assert await host.files() == before
    assert not host.store.pins
