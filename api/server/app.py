"""The HTTP server: finds the route, runs the handler, turns errors into answers. Each rule of section 1 and 2 of the
v1.24 document is here, once: version prefixes, common headers, the JSON error body."""

from __future__ import annotations

import asyncio
import logging
import re
import urllib.parse
from collections.abc import Iterable
from typing import Any, cast

import msgspec
from aiohttp import web
from aiohttp.web_urldispatcher import SystemRoute, UrlMappingMatchInfo

from api import errors
from api.server.connection import Connection, ConnectionServer
from api.server.errormap import status_of
from api.server.http import Route
from api.server.keys import HEADERS, HIJACKED, STREAMING, VERSION
from api.server.raw import Taken
from api.wire import versions
from base.supervise import TaskOwner

log = logging.getLogger(__name__)

LINE_BYTES_MAX = 64 * 1024
"""Request line and one header; `filters` can be long."""

LINGER_S = 1.0
"""How long the rest of a body is read that nobody wanted, so that its sender gets to see the answer."""

_VARIABLE = re.compile(r"\{(\w+)(?::([^}]+))?\}")
_NO_ROUTE = SystemRoute(web.HTTPNotFound())


class Router:
    """Routes by method and first path segment, then by pattern."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes: dict[tuple[str, str], list[tuple[re.Pattern[str], Route]]] = {}
        for route in routes:
            pattern = re.compile(_VARIABLE.sub(lambda m: f"(?P<{m[1]}>{m[2] or '[^/]+'})", route.path) + "/?")
            self._routes.setdefault((route.method, _first(route.path)), []).append((pattern, route))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and its variables, percent-decoded. Raises NotFound as dockerd does for any unknown page."""
        for served in (method, "GET") if method == "HEAD" else (method,):
            for pattern, route in self._routes.get((served, _first(path)), ()):
                match = pattern.fullmatch(path)
                if match is not None:
                    return route, {name: urllib.parse.unquote(value) for name, value in match.groupdict().items()}
        raise errors.NotFound("page not found")


def _first(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else path


class App:
    """Serves routes on any number of sockets."""

    def __init__(self, routes: Iterable[Route], *, server_name: str, cors_headers: str = "") -> None:
        self._router = Router(routes)
        self._headers = {
            "Server": f"{server_name} (linux)",
            "Ostype": "linux",
            "Docker-Experimental": "false",
        }
        if cors_headers:
            self._headers |= {
                "Access-Control-Allow-Origin": cors_headers,
                "Access-Control-Allow-Headers": "Origin, X-Requested-With, Content-Type, Accept, X-Registry-Auth",
                "Access-Control-Allow-Methods": "HEAD, GET, POST, DELETE, PUT, OPTIONS",
            }
        self._changes = TaskOwner("api-changes")
        self._server: ConnectionServer | None = None
        self._listeners: list[asyncio.Server] = []

    def protocol_factory(self) -> ConnectionServer:
        """What makes the protocol of each connection; made on first use, in the running loop."""
        if self._server is None:
            self._server = ConnectionServer(
                cast(Any, self._handle),
                request_factory=cast(Any, self._make_request),
                handler_cancellation=True,
                access_log=None,
                auto_decompress=False,
                max_line_size=LINE_BYTES_MAX,
                max_field_size=LINE_BYTES_MAX,
                lingering_time=LINGER_S,
            )
        return self._server

    def add_listener(self, listener: asyncio.Server) -> None:
        """Own a listening server made with `protocol_factory`."""
        self._listeners.append(listener)

    async def close(self) -> None:
        """Stop listening, let running changes finish, then cut what is left."""
        for listener in self._listeners:
            listener.close()
        if self._server is not None:
            self._server.pre_shutdown()
            await self._server.shutdown(0.5)
        await self._changes.close()

    def _make_request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.Request:
        loop = asyncio.get_running_loop()
        request = web.Request(message, payload, protocol, writer, task, loop, client_max_size=1 << 62)
        request[VERSION] = versions.NEWEST
        request[HEADERS] = self._headers | {"Api-Version": versions.text(versions.NEWEST)}
        return request

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            response = await self._run(request)
        except asyncio.CancelledError:
            raise
        except (ConnectionError, TimeoutError) as error:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client is gone") from error
            response = self._failed(request, error)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes an answer, here and only here
            response = self._failed(request, error)
        if isinstance(request.protocol, Connection) and not isinstance(response, Taken):
            request.protocol.not_taken_over(request._message)
        if not response.prepared:
            response.headers.update(request[HEADERS])
        return response

    async def _run(self, request: web.Request) -> web.StreamResponse:
        request[VERSION], path = versions.split(request.rel_url.raw_path)
        if request.method == "OPTIONS":
            return web.Response(status=200)
        route, variables = self._router.find(request.method, path)
        match = UrlMappingMatchInfo(variables, _NO_ROUTE)
        request._match_info = match
        cancellable = route.cancellable
        if cancellable is None:
            cancellable = request.method in ("GET", "HEAD")
        if cancellable:
            return await route.handler(request)
        change = self._changes.spawn(_quiet(route, request), name=f"{request.method} {path}")
        result = await asyncio.shield(change)
        if isinstance(result, BaseException):
            raise result
        return result

    def _failed(self, request: web.Request, error: Exception) -> web.StreamResponse:
        status = status_of(error, request[VERSION])
        if isinstance(error, errors.ShoalError):
            message = error.message
        else:
            message = f"internal error: {type(error).__name__}: {error}"
        if status >= 500:
            log.error("request failed method=%s path=%s status=%d error=%s", request.method, request.path, status,
                      message, exc_info=None if isinstance(error, errors.ShoalError) else error)  # fmt: skip
        hijacked = request.get(HIJACKED)
        if hijacked is not None:
            hijacked.abort()
            taken: web.StreamResponse = hijacked.response
            return taken
        started = request.get(STREAMING)
        if started is not None and started.prepared:
            raise ConnectionResetError(f"the answer had begun when it failed: {message}")
        if status == 304:
            return web.Response(status=304)
        body = msgspec.json.encode({"message": message}) + b"\n"
        return web.Response(body=body, status=status, content_type="application/json")


async def _quiet(route: Route, request: web.Request) -> web.StreamResponse | Exception:
    """Run a change so that its expected failure is a value: the waiting client may be gone."""
    try:
        return await route.handler(request)
    except Exception as error:  # noqa: BLE001 - carried to the waiting request as a value
        return error
