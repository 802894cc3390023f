"""Exec endpoints (v1.24 section 3.3, "Exec Create" to "Exec Inspect"): parse, call, reply."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from api.server.http import RawStream, Route, empty, hijack, read_json, reply
from api.server.routers.container import screen
from api.types.exec import ExecAnswer, ExecBody, ExecInspect, ExecStartBody


class ExecSession(Protocol):
    """A started exec with its client."""

    async def run(self, connection: RawStream) -> None: ...

    async def close(self) -> None: ...


class ExecBackend(Protocol):
    """What is asked of the engine's execs."""

    async def create(self, ref: str, body: ExecBody) -> ExecAnswer: ...

    async def start(self, exec_id: str, *, detach: bool, tty: bool) -> ExecSession | None: ...

    async def resize(self, exec_id: str, height: int, width: int) -> None: ...

    def inspect(self, exec_id: str) -> ExecInspect: ...


def routes(backend: ExecBackend) -> list[Route]:
    """The four endpoints."""

    async def create(request: web.Request) -> web.StreamResponse:
        body = await read_json(request, ExecBody)
        return reply(request, await backend.create(request.match_info["name"], body), status=201)

    async def start(request: web.Request) -> web.StreamResponse:
        body = await read_json(request, ExecStartBody, optional=True)
        session = await backend.start(request.match_info["id"], detach=body.detach, tty=body.tty)
        if session is None:
            return empty(200)
        try:
            connection = await hijack(request)
        except BaseException:
            await session.close()
            raise
        await session.run(connection)
        return connection.response

    async def resize(request: web.Request) -> web.StreamResponse:
        await backend.resize(request.match_info["id"], *screen(request))
        return empty(201)

    async def inspect(request: web.Request) -> web.StreamResponse:
        return reply(request, backend.inspect(request.match_info["id"]))

    return [
        Route("POST", "/containers/{name}/exec", create),
        Route("POST", "/exec/{id}/start", start),
        Route("POST", "/exec/{id}/resize", resize),
        Route("GET", "/exec/{id}/json", inspect),
    ]
