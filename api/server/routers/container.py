"""Container endpoints (v1.24 section 3.1): parse, call, reply."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from aiohttp import web

from api.errors import InvalidArgument
from api.server.http import (
    RawStream,
    Route,
    empty,
    filters,
    flag,
    hijack,
    integer,
    json_stream,
    raw_stream,
    read_json,
    reply,
    text,
)
from api.server.keys import HEADERS
from api.server.websocket import WebSocket
from api.types.container import (
    Change,
    ContainerInspect,
    ContainerSummary,
    CreateAnswer,
    CreateBody,
    PathStat,
    TopAnswer,
    UpdateBody,
    WaitAnswer,
    WarningsAnswer,
)
from api.types.stream import AttachOptions, LogOptions
from api.wire.head import UPGRADE_HEADER
from base.clock import parse_time

FILTERS = (
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
)
PATH_STAT = "X-Docker-Container-Path-Stat"
RAW_STREAM = "application/vnd.docker.raw-stream"


class Session(Protocol):
    """A client that is registered with a process: run it on its connection, or close it."""

    async def run(self, connection: RawStream | WebSocket) -> None: ...

    def close(self) -> None: ...


class ContainerBackend(Protocol):
    """What is asked of the engine's containers."""

    async def list(
        self,
        all: bool = False,
        limit: int = 0,
        size: bool = False,
        filters: Mapping[str, Sequence[str]] | None = None,
        *,
        since: str = "",
        before: str = "",
    ) -> Sequence[ContainerSummary]: ...

    async def create(self, name: str | None, body: CreateBody) -> CreateAnswer: ...

    async def inspect(self, ref: str, size: bool = False) -> ContainerInspect: ...

    async def top(self, ref: str, ps_args: str = "") -> TopAnswer: ...

    async def archive_stat(self, ref: str, path: str) -> PathStat: ...

    async def archive_get(self, ref: str, path: str) -> tuple[PathStat, AsyncGenerator[bytes, None]]: ...

    async def archive_put(
        self, ref: str, path: str, body: AsyncIterator[bytes], *, keep_kinds: bool = False, as_user: bool = False
    ) -> None: ...

    def logs(self, ref: str, options: LogOptions) -> AsyncIterator[bytes]: ...

    async def changes(self, ref: str) -> Sequence[Change]: ...

    async def export(self, ref: str) -> AsyncIterator[bytes]: ...

    async def stats(self, ref: str, *, stream: bool) -> AsyncIterator[dict[str, Any]]: ...

    async def resize(self, ref: str, height: int, width: int) -> None: ...

    async def start(self, ref: str) -> None: ...

    async def stop(self, ref: str, timeout_s: int | None = None) -> None: ...

    async def restart(self, ref: str, timeout_s: int | None = None) -> None: ...

    async def kill(self, ref: str, signal: str = "") -> None: ...

    async def update(self, ref: str, body: UpdateBody) -> WarningsAnswer: ...

    async def rename(self, ref: str, name: str) -> None: ...

    async def pause(self, ref: str) -> None: ...

    async def unpause(self, ref: str) -> None: ...

    async def attach(self, ref: str, options: AttachOptions) -> Session: ...

    async def wait(self, ref: str) -> int: ...

    async def remove(
        self,
        ref: str,
        *,
        force: bool = False,
        volumes: bool = False,
        link: bool = False,
        answer: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`answer` is called when it is gone, before the destroy event."""
        ...


class ContainerRoutes:
    """The handlers. `name` in a path is a container's id, name, or unique id prefix."""

    def __init__(self, backend: ContainerBackend) -> None:
        self._backend = backend

    async def list(self, request: web.Request) -> web.StreamResponse:
        summaries = await self._backend.list(
            all=flag(request, "all"),
            limit=integer(request, "limit", 0) or 0,
            size=flag(request, "size"),
            filters=filters(request, FILTERS),
            since=text(request, "since"),
            before=text(request, "before"),
        )
        return reply(request, summaries)

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, CreateBody)
        return reply(request, await self._backend.create(text(request, "name") or None, body), status=201)

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        return reply(request, await self._backend.inspect(_name(request), flag(request, "size")))

    async def top(self, request: web.Request) -> web.StreamResponse:
        return reply(request, await self._backend.top(_name(request), text(request, "ps_args")))

    async def changes(self, request: web.Request) -> web.StreamResponse:
        return reply(request, await self._backend.changes(_name(request)))

    async def resize(self, request: web.Request) -> web.StreamResponse:
        await self._backend.resize(_name(request), *screen(request))
        return empty(200)

    async def start(self, request: web.Request) -> web.StreamResponse:
        await self._backend.start(_name(request))
        return empty()

    async def stop(self, request: web.Request) -> web.StreamResponse:
        await self._backend.stop(_name(request), integer(request, "t"))
        return empty()

    async def restart(self, request: web.Request) -> web.StreamResponse:
        await self._backend.restart(_name(request), integer(request, "t"))
        return empty()

    async def kill(self, request: web.Request) -> web.StreamResponse:
        await self._backend.kill(_name(request), text(request, "signal"))
        return empty()

    async def update(self, request: web.Request) -> web.StreamResponse:
        return reply(request, await self._backend.update(_name(request), await read_json(request, UpdateBody)))

    async def rename(self, request: web.Request) -> web.StreamResponse:
        await self._backend.rename(_name(request), text(request, "name"))
        return empty()

    async def pause(self, request: web.Request) -> web.StreamResponse:
        await self._backend.pause(_name(request))
        return empty()

    async def unpause(self, request: web.Request) -> web.StreamResponse:
        await self._backend.unpause(_name(request))
        return empty()

    async def wait(self, request: web.Request) -> web.StreamResponse:
        return reply(request, WaitAnswer(status_code=await self._backend.wait(_name(request))))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        response = empty()

        async def answer() -> None:
            response.headers.update(request[HEADERS])
            with contextlib.suppress(ConnectionResetError):
                await response.prepare(request)
                await response.write_eof()

        await self._backend.remove(
            _name(request),
            force=flag(request, "force"),
            volumes=flag(request, "v"),
            link=flag(request, "link"),
            answer=answer,
        )
        return response

    async def attach(self, request: web.Request) -> web.StreamResponse:
        session = await self._backend.attach(_name(request), attach_options(request))
        try:
            connection = await hijack(request)
        except BaseException:
            session.close()
            raise
        await session.run(connection)
        return connection.response

    async def logs(self, request: web.Request) -> web.StreamResponse:
        pieces = self._backend.logs(_name(request), log_options(request))
        if UPGRADE_HEADER in request.headers:
            connection = await hijack(request)
            with contextlib.suppress(ConnectionResetError):
                async for piece in pieces:
                    await connection.write(piece)
                await connection.write_eof()
            await connection.close()
            return connection.response
        return await send_all(request, pieces, RAW_STREAM)

    async def export(self, request: web.Request) -> web.StreamResponse:
        pieces = await self._backend.export(_name(request))
        first = await anext(aiter(pieces))  # what fails before the first byte is an HTTP status
        return await send_all(request, pieces, "application/octet-stream", first)

    async def stats(self, request: web.Request) -> web.StreamResponse:
        documents = await self._backend.stats(_name(request), stream=flag(request, "stream", True))
        stream = await json_stream(request)
        with contextlib.suppress(ConnectionResetError):
            async for document in documents:
                await stream.send(document)
        return stream.response

    async def archive_stat(self, request: web.Request) -> web.StreamResponse:
        found = await self._backend.archive_stat(_name(request), text(request, "path"))
        response = empty(200)
        response.headers[PATH_STAT] = _header(found)
        return response

    async def archive_get(self, request: web.Request) -> web.StreamResponse:
        found, pieces = await self._backend.archive_get(_name(request), text(request, "path"))
        return await send_all(request, pieces, "application/x-tar", headers={PATH_STAT: _header(found)})

    async def archive_put(self, request: web.Request) -> web.StreamResponse:
        await self._backend.archive_put(
            _name(request),
            text(request, "path"),
            request.content.iter_any(),
            keep_kinds=flag(request, "noOverwriteDirNonDir"),
            as_user=flag(request, "copyUIDGID"),
        )
        return empty(200)

    async def attach_ws(self, request: web.Request) -> web.StreamResponse:
        if not web.WebSocketResponse().can_prepare(request):
            raise InvalidArgument("this endpoint speaks the websocket protocol: no upgrade to it was asked for")
        session = await self._backend.attach(_name(request), attach_options(request, raw=True))
        connection = WebSocket()
        try:
            await connection.open(request)
        except BaseException:
            session.close()
            raise
        await session.run(connection)
        return connection.response


def routes(backend: ContainerBackend) -> list[Route]:
    """All endpoints of section 3.1."""
    on = ContainerRoutes(backend)
    one = "/containers/{name}"
    return [
        Route("GET", "/containers/json", on.list),
        Route("POST", "/containers/create", on.create),
        Route("GET", f"{one}/json", on.inspect),
        Route("GET", f"{one}/top", on.top),
        Route("GET", f"{one}/logs", on.logs),
        Route("GET", f"{one}/changes", on.changes),
        Route("GET", f"{one}/export", on.export),
        Route("GET", f"{one}/stats", on.stats),
        Route("POST", f"{one}/resize", on.resize),
        Route("POST", f"{one}/start", on.start),
        Route("POST", f"{one}/stop", on.stop),
        Route("POST", f"{one}/restart", on.restart),
        Route("POST", f"{one}/kill", on.kill),
        Route("POST", f"{one}/update", on.update),
        Route("POST", f"{one}/rename", on.rename),
        Route("POST", f"{one}/pause", on.pause),
        Route("POST", f"{one}/unpause", on.unpause),
        Route("POST", f"{one}/attach", on.attach),
        Route("GET", f"{one}/attach/ws", on.attach_ws),
        Route("POST", f"{one}/wait", on.wait, cancellable=True),
        Route("DELETE", "/containers/{name:.+}", on.remove),  # a link is removed by `container/alias`
        Route("HEAD", f"{one}/archive", on.archive_stat),
        Route("GET", f"{one}/archive", on.archive_get),
        Route("PUT", f"{one}/archive", on.archive_put),
    ]


async def send_all(
    request: web.Request,
    pieces: AsyncIterator[bytes],
    content_type: str,
    first: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Send the pieces as one chunked answer; a client that leaves ends the source."""
    request[HEADERS].update(headers or {})
    response = web.StreamResponse()
    try:
        response = await raw_stream(request, content_type)
        if first:
            await response.write(first)
        async for piece in pieces:
            await response.write(piece)
    except ConnectionResetError:
        pass  # nobody is there to be told
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
    return response


def log_options(request: web.Request) -> LogOptions:
    """The query of logs. Raises InvalidArgument."""
    stdout, stderr = flag(request, "stdout"), flag(request, "stderr")
    if not (stdout or stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    tail = text(request, "tail")
    return LogOptions(
        stdout=stdout,
        stderr=stderr,
        follow=flag(request, "follow"),
        timestamps=flag(request, "timestamps"),
        details=flag(request, "details"),
        since_ns=_moment(request, "since"),
        until_ns=_moment(request, "until"),
        tail=int(tail) if tail.isdecimal() else -1,
    )


def attach_options(request: web.Request, *, raw: bool = False) -> AttachOptions:
    """The query of both kinds of attach."""
    return AttachOptions(
        logs=flag(request, "logs"),
        stream=flag(request, "stream"),
        stdin=flag(request, "stdin"),
        stdout=flag(request, "stdout"),
        stderr=flag(request, "stderr"),
        detach_keys=text(request, "detachKeys"),
        raw=raw,
    )


def screen(request: web.Request) -> tuple[int, int]:
    """`h` and `w`, both needed. Raises InvalidArgument."""
    height, width = integer(request, "h"), integer(request, "w")
    if height is None or width is None or height < 0 or width < 0:
        raise InvalidArgument("h and w: the height and width in characters are needed")
    return height, width


def _header(found: PathStat) -> str:
    return base64.b64encode(msgspec.json.encode(found)).decode()


def _moment(request: web.Request, name: str) -> int:
    value = text(request, name)
    try:
        return parse_time(value) if value else 0
    except ValueError:
        raise InvalidArgument(f"invalid value for {name}: {value!r} is not a timestamp") from None


def _name(request: web.Request) -> str:
    return request.match_info["name"]
