"""Plugin endpoints (v1.24 section 3.6): parse, call, reply.

`create`, `set` and `push` are not in the document, but nobody can make a plugin or set one up without them: they are
as later documents have them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from aiohttp import web

from api.server.http import Route, auth_config, empty, flag, read_json, reply, text
from api.server.routers.image import Drives, Report, streamed
from api.types.auth import AuthConfig
from api.types.plugin import PluginInfo, PluginPrivilege

_CHUNK = 1 << 20


class PluginBackend(Drives, Protocol):
    """What is asked of the engine's plugins."""

    def list(self) -> Sequence[PluginInfo]: ...

    def inspect(self, name: str) -> PluginInfo: ...

    async def pull(self, name: str, auth: AuthConfig | None) -> Sequence[PluginPrivilege]: ...

    async def create(self, name: str, body: AsyncIterator[bytes]) -> None: ...

    async def push(self, name: str, auth: AuthConfig | None, report: Report) -> None: ...

    async def set(self, name: str, wishes: Sequence[str]) -> None: ...

    async def enable(self, name: str) -> None: ...

    async def disable(self, name: str, *, force: bool = False) -> None: ...

    async def remove(self, name: str, *, force: bool = False) -> None: ...


def routes(backend: PluginBackend) -> list[Route]:
    """The plugin endpoints over `backend`."""

    async def list_plugins(request: web.Request) -> web.StreamResponse:
        return reply(request, backend.list())

    async def pull(request: web.Request) -> web.StreamResponse:
        return reply(request, await backend.pull(text(request, "name"), auth_config(request)))

    async def create(request: web.Request) -> web.StreamResponse:
        await backend.create(text(request, "name"), request.content.iter_chunked(_CHUNK))
        return empty()

    async def inspect(request: web.Request) -> web.StreamResponse:
        return reply(request, backend.inspect(request.match_info["name"]))

    async def enable(request: web.Request) -> web.StreamResponse:
        await backend.enable(request.match_info["name"])
        return _done()

    async def disable(request: web.Request) -> web.StreamResponse:
        await backend.disable(request.match_info["name"], force=flag(request, "force"))
        return _done()

    async def remove(request: web.Request) -> web.StreamResponse:
        await backend.remove(request.match_info["name"], force=flag(request, "force"))
        return _done()

    async def set_up(request: web.Request) -> web.StreamResponse:
        await backend.set(request.match_info["name"], await read_json(request, list[str]))
        return empty()

    async def push(request: web.Request) -> web.StreamResponse:
        name, auth = request.match_info["name"], auth_config(request)
        return await streamed(request, backend, lambda report: backend.push(name, auth, report))

    return [
        Route("GET", "/plugins", list_plugins),
        Route("POST", "/plugins/pull", pull, cancellable=True),
        Route("POST", "/plugins/create", create, cancellable=True),
        Route("GET", "/plugins/{name:.+}/json", inspect),
        Route("POST", "/plugins/{name:.+}/enable", enable),
        Route("POST", "/plugins/{name:.+}/disable", disable),
        Route("POST", "/plugins/{name:.+}/push", push, cancellable=True),
        Route("POST", "/plugins/{name:.+}/set", set_up),
        Route("GET", "/plugins/{name:.+}", inspect),
        Route("DELETE", "/plugins/{name:.+}", remove),
    ]


def _done() -> web.Response:
    """A 200 without a body, as the document shows it."""
    return web.Response(text="", content_type="text/plain", charset="utf-8")
