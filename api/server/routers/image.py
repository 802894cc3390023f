"""Image endpoints (v1.24 section 3.2 and the tarballs of 3.3): parse, call, reply.

Long operations stream JSON objects. What fails before the first object is an HTTP status; later, the last object.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web

from api.errors import Internal, InvalidArgument, ShoalError
from api.server.http import (
    JsonStream,
    Route,
    auth_config,
    empty,
    filters,
    flag,
    integer,
    json_stream,
    raw_stream,
    reply,
    text,
)
from api.types.auth import AuthConfig
from api.types.image import ImageHistoryItem, ImageInspect, ImageRemoved, ImageSummary, SearchResult

SEARCH_FILTERS = ("stars", "is-automated", "is-official")
SEARCH_LIMIT = 25
FILTERS = ("dangling", "label", "before", "since", "reference")
_CHUNK = 1 << 20

Report = Callable[[dict[str, Any]], None]
Work = Callable[[Report], Awaitable[object]]


class Drives(Protocol):
    """Runs long work."""

    async def drive(self, work: Work, send: Callable[[dict[str, Any]], Awaitable[None]]) -> object:
        """Run `work`, sending what it reports at the client's pace; a client that leaves ends it."""
        ...


class ImageBackend(Drives, Protocol):
    """What is asked of the engine's images."""

    def list(
        self, filters: Mapping[str, Sequence[str]], *, every: bool = False, name: str = ""
    ) -> Sequence[ImageSummary]: ...

    def inspect(self, name: str) -> ImageInspect: ...

    def history(self, name: str) -> Sequence[ImageHistoryItem]: ...

    async def tag(self, name: str, repository: str, tag: str) -> None: ...

    async def remove(self, name: str, *, force: bool, prune: bool) -> Sequence[ImageRemoved]: ...

    async def pull_tags(self, name: str, tag: str, auth: AuthConfig | None, report: Report) -> None: ...

    async def push(self, name: str, tag: str, auth: AuthConfig | None, report: Report) -> None: ...

    async def search(
        self, term: str, limit: int, filters: Mapping[str, Sequence[str]], auth: AuthConfig | None
    ) -> Sequence[SearchResult]: ...

    async def import_image(
        self,
        source: str,
        body: AsyncIterator[bytes],
        reference: str,
        message: str,
        changes: Sequence[str],
        report: Report,
    ) -> str: ...

    async def load(self, body: AsyncIterator[bytes], report: Report, *, quiet: bool = False) -> Sequence[str]: ...

    def save(self, wanted: Sequence[str]) -> AsyncIterator[bytes]: ...


async def streamed(request: web.Request, backend: Drives, work: Work) -> web.StreamResponse:
    """Send what `work` reports as a JSON stream. What fails before its first report is a status."""
    stream: JsonStream | None = None

    async def send(message: dict[str, Any]) -> None:
        nonlocal stream
        if stream is None:
            stream = await json_stream(request)
        await stream.send(message)

    try:
        await backend.drive(work, send)
    except (ShoalError, OSError) as error:
        if stream is None or isinstance(error, ConnectionError):
            raise
        await stream.fail(error if isinstance(error, ShoalError) else Internal(str(error)))
    if stream is None:
        stream = await json_stream(request)
    return stream.response


async def _tarball(request: web.Request, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    response: web.StreamResponse | None = None
    async for piece in pieces:
        if response is None:  # an unknown image is found out before the head is sent
            response = await raw_stream(request, "application/x-tar")
        await response.write(piece)
    return response if response is not None else await raw_stream(request, "application/x-tar")


def routes(backend: ImageBackend) -> list[Route]:
    """The image endpoints over `backend`."""

    async def list_images(request: web.Request) -> web.StreamResponse:
        wanted = filters(request, FILTERS)
        return reply(request, backend.list(wanted, every=flag(request, "all"), name=text(request, "filter")))

    async def inspect(request: web.Request) -> web.StreamResponse:
        return reply(request, backend.inspect(request.match_info["name"]))

    async def history(request: web.Request) -> web.StreamResponse:
        return reply(request, backend.history(request.match_info["name"]))

    async def create(request: web.Request) -> web.StreamResponse:
        image, source = text(request, "fromImage"), text(request, "fromSrc")
        if bool(image) == bool(source):
            raise InvalidArgument("exactly one of fromImage and fromSrc must be given")
        tag = text(request, "tag")
        if image:
            auth = auth_config(request)
            return await streamed(request, backend, lambda report: backend.pull_tags(image, tag, auth, report))
        repository = text(request, "repo")
        reference = f"{repository}:{tag}" if repository and tag else repository
        changes = request.query.getall("changes", [])
        return await streamed(
            request,
            backend,
            lambda report: backend.import_image(
                source,
                request.content.iter_chunked(_CHUNK),
                reference,
                text(request, "message"),
                changes,
                report,
            ),
        )

    async def push(request: web.Request) -> web.StreamResponse:
        name, tag, auth = request.match_info["name"], text(request, "tag"), auth_config(request)
        return await streamed(request, backend, lambda report: backend.push(name, tag, auth, report))

    async def tag_image(request: web.Request) -> web.StreamResponse:
        await backend.tag(request.match_info["name"], text(request, "repo"), text(request, "tag"))
        return empty(201)

    async def remove(request: web.Request) -> web.StreamResponse:
        prune = not flag(request, "noprune")
        return reply(
            request, await backend.remove(request.match_info["name"], force=flag(request, "force"), prune=prune)
        )

    async def save_one(request: web.Request) -> web.StreamResponse:
        return await _tarball(request, backend.save([request.match_info["name"]]))

    async def save_many(request: web.Request) -> web.StreamResponse:
        return await _tarball(request, backend.save(request.query.getall("names", [])))

    async def load(request: web.Request) -> web.StreamResponse:
        quiet = flag(request, "quiet")
        body = request.content.iter_chunked(_CHUNK)
        return await streamed(request, backend, lambda report: backend.load(body, report, quiet=quiet))

    async def search(request: web.Request) -> web.StreamResponse:
        limit = integer(request, "limit")
        found = await backend.search(
            text(request, "term"),
            SEARCH_LIMIT if limit is None or limit == 0 else limit,
            filters(request, SEARCH_FILTERS),
            auth_config(request),
        )
        return reply(request, found)

    return [
        Route("GET", "/images/json", list_images),
        Route("GET", "/images/search", search),
        Route("GET", "/images/get", save_many),
        Route("POST", "/images/create", create, cancellable=True),
        Route("POST", "/images/load", load, cancellable=True),
        Route("GET", "/images/{name:.+}/json", inspect),
        Route("GET", "/images/{name:.+}/history", history),
        Route("GET", "/images/{name:.+}/get", save_one),
        Route("POST", "/images/{name:.+}/push", push, cancellable=True),
        Route("POST", "/images/{name:.+}/tag", tag_image),
        Route("DELETE", "/images/{name:.+}", remove),
    ]
