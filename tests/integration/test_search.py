"""GET /images/search over a real socket, against an index that answers the search API and a registry that does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from api.server.app import App
from api.server.routers import image as image_routes
from tests.unit.images.conftest import Host
from worker.engine.images.registry import RegistryConfig
from worker.engine.images.service import ImageService

FOUND: list[dict[str, Any]] = [
    {"name": "sshd", "description": "official", "is_official": True, "is_automated": False, "star_count": 90},
    {"name": "one/sshd", "description": "", "is_official": False, "is_automated": True, "star_count": 5},
    {"name": "two/sshd", "description": "two", "is_official": False, "is_automated": False, "star_count": 0},
]


@pytest.fixture
async def index() -> AsyncIterator[str]:
    async def search(request: web.Request) -> web.Response:
        assert request.query["q"] == "sshd"
        return web.json_response({"num_results": 3, "results": FOUND[: int(request.query["n"])]})

    async with Site({"/v1/search": search}) as host:
        yield host


class Site:
    """A web site for the length of a block; gives its host and port."""

    def __init__(self, pages: dict[str, Any]) -> None:
        self._app = web.Application()
        for path, handler in pages.items():
            self._app.router.add_get(path, handler)

    async def __aenter__(self) -> str:
        self._runner = web.AppRunner(self._app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


class Client:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __call__(self, query: str) -> tuple[int, Any]:
        async with self._session.get(f"http://shoal/v1.24/images/search?{query}") as response:
            return response.status, await response.json()


@pytest.fixture
async def search(tmp_path: Path) -> AsyncIterator[Client]:
    host = Host(tmp_path / "data")
    await host.open()
    service = ImageService(host.store, RegistryConfig(retry_delay_s=0.01))
    app = App(image_routes.routes(service), server_name="Shoal/test")
    socket = tmp_path / "api.sock"
    app.add_listener(await asyncio.get_running_loop().create_unix_server(app.protocol_factory(), str(socket)))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session:
        yield Client(session)
    await app.close()
    await host.shut()


@pytest.mark.promise(
    "images.search.status.200", "images.search.query.term", "images.search.b6", "images.search.b7",
    "images.search.response.[].description", "images.search.response.[].is_official",
    "images.search.response.[].is_automated", "images.search.response.[].name",
    "images.search.response.[].star_count",
)  # fmt: skip
async def test_what_an_index_knows(search: Client, index: str) -> None:
    assert await search(f"term={index}/sshd") == (200, FOUND)


@pytest.mark.promise("images.search.b2", "images.search.query.limit")
async def test_limit(search: Client, index: str) -> None:
    assert await search(f"term={index}/sshd&limit=1") == (200, FOUND[:1])
    for limit in ("-1", "101"):
        status, body = await search(f"term={index}/sshd&limit={limit}")
        assert (status, body["message"]) == (400, f"Limit {limit} is outside the range of [1, 100]")
    assert (await search(f"term={index}/sshd&limit=many"))[0] == 400
    assert (await search(""))[0] == 400


@pytest.mark.promise(
    "images.search.b3", "images.search.b4", "images.search.b5", "images.search.query.filters",
    "images.search.query.filters.stars", "images.search.query.filters.is-automated",
    "images.search.query.filters.is-official",
)  # fmt: skip
@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"stars": ["5"]}, ["sshd", "one/sshd"]), ({"is-automated": ["true"]}, ["one/sshd"]),
        ({"is-automated": ["false"]}, ["sshd", "two/sshd"]), ({"is-official": ["true"]}, ["sshd"]),
        ({"is-official": ["false"], "stars": ["1"]}, ["one/sshd"]),
    ],
)  # fmt: skip
async def test_filters(search: Client, index: str, filters: dict[str, list[str]], names: list[str]) -> None:
    status, found = await search(f"term={index}/sshd&filters={quote(json.dumps(filters))}")
    assert (status, [one["name"] for one in found]) == (200, names)


@pytest.mark.parametrize("filters", [{"stars": ["x"]}, {"is-official": ["maybe"]}, {"nope": ["1"]}])
async def test_filters_that_can_not_be(search: Client, index: str, filters: dict[str, list[str]]) -> None:
    status, body = await search(f"term={index}/sshd&filters={quote(json.dumps(filters))}")
    assert status == 400
    assert body["message"].startswith("Invalid filter '")


async def test_a_registry_without_an_index_gives_its_catalog(search: Client) -> None:
    async def catalog(request: web.Request) -> web.Response:
        if "last" in request.query:
            return web.json_response({"repositories": ["b/sshd"]})
        link = {"Link": '</v2/_catalog?last=a%2Fsshd&n=2>; rel="next"'}
        return web.json_response({"repositories": ["a/sshd", "other"]}, headers=link)

    async with Site({"/v2/_catalog": catalog}) as host:
        status, found = await search(f"term={host}/sshd")
        assert (status, [one["name"] for one in found]) == (200, [f"{host}/a/sshd", f"{host}/b/sshd"])


async def test_an_index_that_answers_nonsense(search: Client) -> None:
    async def nonsense(_request: web.Request) -> web.Response:
        return web.Response(text="<html>")

    async with Site({"/v1/search": nonsense}) as host:
        status, body = await search(f"term={host}/sshd")
        assert status == 500
        assert "gave no list of results" in body["message"]
