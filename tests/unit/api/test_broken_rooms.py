"""When a part of the engine is broken, the endpoints of networks, volumes and the system answer 500 with the reason."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from api.errors import Internal
from api.server.app import App
from api.server.routers import network, system, volume

ENDPOINTS = {
    "volumes.list": ("GET", "/volumes", None),
    "volumes.create": ("POST", "/volumes/create", {"Name": "data"}),
    "volumes.inspect": ("GET", "/volumes/data", None),
    "volumes.remove": ("DELETE", "/volumes/data", None),
    "networks.list": ("GET", "/networks", None),
    "networks.inspect": ("GET", "/networks/net", None),
    "networks.create": ("POST", "/networks/create", {"Name": "net"}),
    "networks.connect": ("POST", "/networks/net/connect", {"Container": "c"}),
    "networks.disconnect": ("POST", "/networks/net/disconnect", {"Container": "c"}),
    "networks.remove": ("DELETE", "/networks/net", None),
    "misc.info": ("GET", "/info", None),
    "misc.version": ("GET", "/version", None),
    "misc.events": ("GET", "/events", None),
}


class Broken:
    """Stands for a part whose every call fails."""

    def __getattr__(self, name: str) -> Any:
        def fail(*args: object, **kwargs: object) -> Any:
            raise Internal("the disk is on fire")

        return fail


@pytest.mark.promise(*(f"{entry}.status.500" for entry in ENDPOINTS))
async def test_a_broken_part_is_a_500(tmp_path: Path) -> None:
    broken: Any = Broken()
    routes = [*network.routes(broken, broken), *volume.routes(broken), *system.routes(broken)]
    app = App(routes, server_name="Shoal/test")
    path = str(tmp_path / "s.sock")
    app.add_listener(await asyncio.get_running_loop().create_unix_server(app.protocol_factory(), path))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
        for entry, (method, url, body) in ENDPOINTS.items():
            async with session.request(method, f"http://x/v1.24{url}", json=body) as answer:
                assert answer.status == 500, entry
                assert await answer.json() == {"message": "the disk is on fire"}, entry
        async with session.get("http://x/_ping") as answer:
            assert answer.status == 200  # asks no part of anything
    await app.close()
