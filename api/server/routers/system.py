"""Info, version, ping, events and auth (v1.24 section 3.3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
from aiohttp import web

from api.errors import InvalidArgument
from api.server.http import Route, filters, raw_stream, read_json, reply, text
from api.types.auth import AuthConfig
from api.types.system import AuthAnswer, SystemInfo, VersionInfo
from base.clock import parse_time

EVENT_FILTERS = ("container", "event", "image", "label", "type", "volume", "network", "daemon", "plugin",
                 "service", "node", "scope")  # fmt: skip


class EventStream(Protocol):
    """Events as they come; `close` ends it."""

    def __aiter__(self) -> AsyncIterator[msgspec.Struct]: ...

    def close(self) -> None: ...


class SystemBackend(Protocol):
    """What this area needs of the daemon."""

    async def info(self) -> SystemInfo: ...

    def version(self) -> VersionInfo: ...

    def events(self, since_ns: int | None, until_ns: int | None, wanted: dict[str, list[str]]) -> EventStream:
        """Past events from `since_ns`, then live ones until `until_ns` (forever when None); from this call on."""
        ...

    async def check_auth(self, auth: AuthConfig) -> str:
        """Log in to the registry; the identity token, or "". Raises Unauthorized for wrong credentials."""
        ...


def routes(backend: SystemBackend) -> list[Route]:
    """The routes of this area."""

    async def ping(request: web.Request) -> web.Response:
        del request
        headers = {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
        return web.Response(text="OK", content_type="text/plain", headers=headers)

    async def info(request: web.Request) -> web.Response:
        return reply(request, await backend.info())

    async def version(request: web.Request) -> web.Response:
        return reply(request, backend.version())

    async def events(request: web.Request) -> web.StreamResponse:
        since, until = _moment(request, "since"), _moment(request, "until")
        if since is not None and until is not None and since > until:
            raise InvalidArgument(f"`since` time ({text(request, 'since')}) cannot be after `until` time "
                                  f"({text(request, 'until')})")  # fmt: skip
        wanted = filters(request, EVENT_FILTERS)
        stream = backend.events(since, until, wanted)
        try:
            response = await raw_stream(request, "application/json")
            async for event in stream:
                await response.write(msgspec.json.encode(event) + b"\n")
        finally:
            stream.close()
        return response

    async def auth(request: web.Request) -> web.Response:
        config = await read_json(request, AuthConfig)
        token = await backend.check_auth(config)
        # The document also allows an empty 204, which no docker CLI can read.
        return reply(request, AuthAnswer(status="Login Succeeded", identity_token=token))

    return [
        Route("GET", "/_ping", ping),
        Route("GET", "/info", info),
        Route("GET", "/version", version),
        Route("GET", "/events", events),
        Route("POST", "/auth", auth),
    ]


def _moment(request: web.Request, name: str) -> int | None:
    value = text(request, name)
    if value in ("", "0"):
        return None
    try:
        return parse_time(value)
    except ValueError as error:
        raise InvalidArgument(f"invalid value for {name}: {error}") from None
