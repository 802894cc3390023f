"""Volume endpoints (v1.24 section 3.4): parse, call, reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from aiohttp import web

from api.server.http import Route, empty, filters, flag, read_json, reply
from api.types.volume import Volume, VolumeCreate, VolumeList


class VolumeBackend(Protocol):
    async def create(self, body: VolumeCreate) -> Volume: ...

    async def inspect(self, name: str) -> Volume: ...

    async def list(self, filters: Mapping[str, Sequence[str]]) -> VolumeList: ...

    async def remove(self, name: str, *, force: bool = False) -> None: ...


def routes(backend: VolumeBackend) -> list[Route]:
    """The four endpoints over `backend`."""

    async def list_volumes(request: web.Request) -> web.StreamResponse:
        return reply(request, await backend.list(filters(request)))

    async def create(request: web.Request) -> web.StreamResponse:
        return reply(request, await backend.create(await read_json(request, VolumeCreate)), status=201)

    async def inspect(request: web.Request) -> web.StreamResponse:
        return reply(request, await backend.inspect(request.match_info["name"]))

    async def remove(request: web.Request) -> web.StreamResponse:
        await backend.remove(request.match_info["name"], force=flag(request, "force"))
        return empty()

    return [
        Route("GET", "/volumes", list_volumes),
        Route("POST", "/volumes/create", create),
        Route("GET", "/volumes/{name}", inspect),
        Route("DELETE", "/volumes/{name}", remove),
    ]
