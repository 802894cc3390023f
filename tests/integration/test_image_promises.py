"""What is left of the promises about images and log-ins: server errors, log-ins with more than they need, cancelled
pushes, identity tokens."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from api.errors import Unauthorized
from api.server.app import App
from api.server.routers import build as build_routes
from api.server.routers import image as image_routes
from api.types.auth import AuthConfig
from tests.integration.test_images_api import Client, client, host, pull, registry
from tests.integration.test_search import Site
from tests.unit.images.archives import two_layers
from tests.unit.images.registry_server import RegistryServer
from worker.engine.images.login import log_in
from worker.engine.images.registry import RegistryConfig

__all__ = ["client", "host", "registry"]

pytestmark = pytest.mark.root


class Broken:
    """A backend in which everything fails in a way nobody expected."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_args: object, **_more: object) -> None:
            raise OSError(5, f"Input/output error in {name}")

        return fail


@pytest.fixture
async def broken(tmp_path: Path) -> AsyncIterator[Client]:
    app = App(
        [*image_routes.routes(Broken()), *build_routes.routes(Broken(), Broken())],  # type: ignore[arg-type]
        server_name="Shoal/test",
    )
    socket = tmp_path / "api.sock"
    app.add_listener(await asyncio.get_running_loop().create_unix_server(app.protocol_factory(), str(socket)))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session:
        yield Client(session, socket)
    await app.close()


@pytest.mark.promise(
    "images.inspect.status.500", "images.history.status.500", "images.tag.status.500", "images.remove.status.500",
    "images.push.status.500", "images.create.status.500", "images.load.status.500", "images.get-one.status.500",
    "images.get-many.status.500", "misc.commit.status.500",
)  # fmt: skip
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/images/a/json"), ("GET", "/images/a/history"), ("POST", "/images/a/tag?repo=b"),
        ("DELETE", "/images/a"), ("POST", "/images/a/push"), ("POST", "/images/create?fromImage=a"),
        ("POST", "/images/load"), ("GET", "/images/a/get"), ("GET", "/images/get?names=a"),
        ("POST", "/commit?container=a"),
    ],
)  # fmt: skip
async def test_server_errors(broken: Client, method: str, path: str) -> None:
    status, body = await broken.ask(method, path)
    assert status == 500
    assert "Input/output error" in body["message"]


def header(**login: str) -> dict[str, str]:
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}


@pytest.mark.promise(
    "images.create.body.X-Registry-Auth.email", "images.push.body.X-Registry-Auth.email",
    "images.create.response.progressDetail", "images.push.response.progress", "images.push.response.progressDetail",
    "images.push.response.progressDetail.current",
)  # fmt: skip
async def test_log_ins_may_have_an_address(client: Client, registry: RegistryServer) -> None:
    registry.password = "secret"
    registry.add("app", "v1", two_layers())
    login = header(username="user", password="secret", email="jdoe@acme.com")
    path = f"/images/create?fromImage={registry.host}/app&tag=v1"
    status, messages = await client.stream("POST", path, headers=login)
    assert status == 200, messages
    assert any(message.get("progressDetail", {}).get("current") for message in messages)
    registry.blobs.clear()
    registry.manifests.clear()
    status, messages = await client.stream("POST", f"/images/{registry.host}/app/push?tag=v1", headers=login)
    assert status == 200, messages
    assert "error" not in messages[-1]
    details = [message for message in messages if message.get("progressDetail")]
    assert all(message["progressDetail"]["current"] > 0 and message["progress"] for message in details)
    assert details
    assert ("app", "v1") in registry.manifests


@pytest.mark.promise("images.push.b4")
async def test_a_client_that_leaves_ends_its_push(client: Client, registry: RegistryServer) -> None:
    name = await pull(client, registry, two_layers())
    registry.blobs.clear()
    reached, release = asyncio.Event(), asyncio.Event()

    class Slow(web.StreamResponse):
        async def write_eof(self, data: bytes = b"") -> None:
            reached.set()
            await release.wait()

    registry.fault = lambda request, _seen: Slow() if request.method == "PUT" else None
    before = dict(registry.manifests)
    registry.manifests.clear()
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(client.stream("POST", f"/images/{name.removesuffix(':v1')}/push?tag=v1"))
        await reached.wait()
        asked.cancel()
    registry.fault = None
    release.set()
    await asyncio.sleep(0.2)
    assert registry.manifests == {}, "nothing was published after the client had left"
    assert before


@pytest.mark.promise("misc.auth.b2")
async def test_a_token_in_place_of_the_password() -> None:
    asked: list[dict[str, str]] = []

    async def base(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") == "Bearer access":
            return web.json_response({})
        realm = f'Bearer realm="http://{request.host}/token",service="test"'
        return web.json_response({}, status=401, headers={"WWW-Authenticate": realm})

    async def token(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        good = base64.b64encode(b"me:secret").decode()
        if request.headers.get("Authorization") != f"Basic {good}":
            return web.json_response({"errors": [{"code": "UNAUTHORIZED", "message": "no"}]}, status=401)
        return web.json_response({"token": "access", "refresh_token": "identity"})

    async with Site({"/v2/": base, "/token": token}) as where:
        config = RegistryConfig(retry_delay_s=0.01)
        assert await log_in(AuthConfig(username="me", password="secret", serveraddress=where), config) == "identity"
        assert asked[-1] == {"service": "test", "account": "me", "client_id": "shoal", "offline_token": "true"}
        with pytest.raises(Unauthorized):
            await log_in(AuthConfig(username="me", password="wrong", serveraddress=where), config)
