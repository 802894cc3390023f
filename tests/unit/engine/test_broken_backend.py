"""When the engine itself is broken, every container and exec endpoint answers 500 with the reason, and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from api.errors import Internal
from api.server.app import App
from api.server.routers import container
from api.server.routers import exec as exec_router

ENDPOINTS = {
    "containers.list": ("GET", "/containers/json", None),
    "containers.create": ("POST", "/containers/create", {"Image": "x"}),
    "containers.inspect": ("GET", "/containers/x/json", None),
    "containers.top": ("GET", "/containers/x/top", None),
    "containers.logs": ("GET", "/containers/x/logs?stdout=1", None),
    "containers.changes": ("GET", "/containers/x/changes", None),
    "containers.export": ("GET", "/containers/x/export", None),
    "containers.stats": ("GET", "/containers/x/stats", None),
    "containers.resize": ("POST", "/containers/x/resize?h=1&w=1", None),
    "containers.start": ("POST", "/containers/x/start", None),
    "containers.stop": ("POST", "/containers/x/stop", None),
    "containers.restart": ("POST", "/containers/x/restart", None),
    "containers.kill": ("POST", "/containers/x/kill", None),
    "containers.update": ("POST", "/containers/x/update", {}),
    "containers.rename": ("POST", "/containers/x/rename?name=y", None),
    "containers.pause": ("POST", "/containers/x/pause", None),
    "containers.unpause": ("POST", "/containers/x/unpause", None),
    "containers.attach": ("POST", "/containers/x/attach?stream=1", None),
    "containers.attach-ws": ("GET", "/containers/x/attach/ws?stream=1", None),
    "containers.wait": ("POST", "/containers/x/wait", None),
    "containers.remove": ("DELETE", "/containers/x", None),
    "containers.archive-stat": ("HEAD", "/containers/x/archive?path=/", None),
    "containers.archive-get": ("GET", "/containers/x/archive?path=/", None),
    "containers.archive-put": ("PUT", "/containers/x/archive?path=/", None),
    "exec.create": ("POST", "/containers/x/exec", {"Cmd": ["true"]}),
    "exec.inspect": ("GET", "/exec/x/json", None),
}
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Broken:
    """Stands for an engine whose every part fails."""

    def __getattr__(self, name: str) -> Any:
        def fail(*args: object, **kwargs: object) -> Any:
            raise Internal("the disk is on fire")

        return fail


@pytest_asyncio.fixture
async def session(tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    broken: Any = Broken()
    app = App([*container.routes(broken), *exec_router.routes(broken)], server_name="Shoal/test")
    path = str(tmp_path / "s.sock")
    app.add_listener(await asyncio.get_running_loop().create_unix_server(app.protocol_factory(), path))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
        yield session
    await app.close()


@pytest.mark.promise(*(f"{entry}.status.500" for entry in ENDPOINTS))
async def test_a_broken_engine_is_a_500(session: aiohttp.ClientSession) -> None:
    for entry, (method, path, body) in ENDPOINTS.items():
        headers = HANDSHAKE if entry == "containers.attach-ws" else None
        async with session.request(method, f"http://x/v1.24{path}", json=body, headers=headers) as answer:
            assert answer.status == 500, entry
            if method != "HEAD":
                assert await answer.json() == {"message": "the disk is on fire"}, entry
