"""What routers use: reading requests and writing answers in Docker's manner. Handlers are parse, call, reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import msgspec
from aiohttp import web

from api.errors import InvalidArgument, ShoalError
from api.server.connection import Connection
from api.server.keys import HEADERS, HIJACKED, STREAMING, VERSION
from api.server.raw import RawStream
from api.types import lenient
from api.types.auth import AuthConfig, decode_auth
from api.wire import filters as wire_filters
from api.wire import versions
from api.wire.head import UPGRADE_HEADER

__all__ = [
    "JsonStream",
    "RawStream",
    "Route",
    "auth_config",
    "empty",
    "filters",
    "flag",
    "hijack",
    "integer",
    "json_stream",
    "raw_stream",
    "read_json",
    "reply",
    "text",
    "version_of",
]

T = TypeVar("T")
JSON_BODY_BYTES_MAX = 16 * 1024 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """One endpoint. `path` has no version prefix; `{name}` is one segment, `{name:.+}` may hold slashes."""

    method: str
    path: str
    handler: Handler
    cancellable: bool | None = None
    """Whether the handler is cancelled when the client leaves. None: reads are, changes run to their end."""


async def read_json(request: web.Request, kind: type[T], *, optional: bool = False) -> T:
    """The body as `kind`. Raises InvalidArgument that names the field; an empty body is one too unless `optional`."""
    data = await request.content.read(JSON_BODY_BYTES_MAX + 1)
    while len(data) <= JSON_BODY_BYTES_MAX and (more := await request.content.read(JSON_BODY_BYTES_MAX)):
        data += more
    if len(data) > JSON_BODY_BYTES_MAX:
        raise InvalidArgument(f"request body is larger than {JSON_BODY_BYTES_MAX} bytes")
    if data.strip() in (b"", b"null"):
        if optional:
            return kind()
        raise InvalidArgument("request body is missing: invalid JSON: EOF")
    content_type = request.headers.get("Content-Type", "")
    if content_type and content_type.partition(";")[0].strip().lower() != "application/json":
        raise InvalidArgument(f"Content-Type specified ({content_type}) must be 'application/json'")
    try:
        return lenient.decode(data, kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid request body: {error}") from None
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from None


def _to_json(request: web.Request, value: Any) -> bytes:
    kind = type(value).__name__
    if kind in versions.ADDED:
        value = versions.turn_down(kind, msgspec.to_builtins(value), version_of(request))
    return msgspec.json.encode(value)


def reply(request: web.Request, value: Any, status: int = 200) -> web.Response:
    """`value` as JSON, turned down to the version the request asked for."""
    return web.Response(body=_to_json(request, value) + b"\n", status=status, content_type="application/json")


def empty(status: int = 204) -> web.Response:
    """An answer without a body."""
    return web.Response(status=status)


def flag(request: web.Request, name: str, default: bool = False) -> bool:
    """A boolean query parameter (note C22): absent is the default; empty, 0, no, false and none are false."""
    value = request.query.get(name)
    if value is None:
        return default
    return value.strip().lower() not in ("", "0", "no", "false", "none")


def integer(request: web.Request, name: str, default: int | None = None) -> int | None:
    """A whole-number query parameter."""
    value = request.query.get(name, "")
    if value == "":
        return default
    try:
        return int(value)
    except ValueError:
        raise InvalidArgument(f"invalid value for {name}: {value!r} is not a whole number") from None


def text(request: web.Request, name: str, default: str = "") -> str:
    """A text query parameter."""
    return str(request.query.get(name, default))


def filters(request: web.Request, allowed: Collection[str] | None = None) -> wire_filters.Filters:
    """The `filters` parameter."""
    return wire_filters.parse(request.query.get("filters", ""), allowed)


def version_of(request: web.Request) -> versions.Version:
    """The API version this request is served with."""
    return request[VERSION]


def auth_config(request: web.Request) -> AuthConfig | None:
    """The `X-Registry-Auth` header; None when absent or empty."""
    return decode_auth(request.headers.get("X-Registry-Auth", ""))


class JsonStream:
    """A 200 that carries one JSON object after another; what fails after the head becomes the last object."""

    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response

    async def send(self, value: Any) -> None:
        """Write one object. Raises ConnectionResetError when the client is gone."""
        await self.response.write(msgspec.json.encode(value) + b"\r\n")

    async def fail(self, error: ShoalError) -> None:
        """Write the error as clients expect it within a stream."""
        await self.send({"errorDetail": {"message": error.message}, "error": error.message})


async def json_stream(request: web.Request) -> JsonStream:
    """Send the head of a JSON stream."""
    return JsonStream(await raw_stream(request, "application/json"))


async def raw_stream(request: web.Request, content_type: str) -> web.StreamResponse:
    """Send the head of a chunked answer."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    request[STREAMING] = response
    response.headers.update(request[HEADERS])
    await response.prepare(request)
    return response


async def hijack(request: web.Request, content_type: str = "application/vnd.docker.raw-stream") -> RawStream:
    """Take the connection over: 101 when the client asked for an upgrade, else a plain 200 (notes C03, C05)."""
    connection = cast(Any, request.protocol)
    transport = request.transport
    if not isinstance(connection, Connection) or not connection.taking_over:
        raise InvalidArgument("this request can't take over its connection: send it without a chunked body")
    if transport is None:
        raise ConnectionResetError("the client is gone")
    if UPGRADE_HEADER in request.headers:
        start = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    else:
        start = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n"
    common = "".join(f"{name}: {value}\r\n" for name, value in request[HEADERS].items())
    transport.write(f"{start}{common}\r\n".encode())
    stream = request[HIJACKED] = RawStream(transport, connection)
    return stream
