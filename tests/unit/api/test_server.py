"""The HTTP server on a real socket: errors, headers, hijacked streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from api import errors
from api.server.app import App
from api.server.http import Route, empty, hijack, json_stream, raw_stream, read_json, reply
from api.server.routers import system
from api.types.auth import AuthConfig
from api.types.base import Api
from api.types.system import SystemInfo, VersionInfo

Send = Callable[..., Awaitable[tuple[int, dict[str, str], bytes]]]


class Body(Api):
    image: str
    count: int = 0


class Fail(Exception):
    pass


class FakeEvents:
    def __init__(self, count: int) -> None:
        self._count = count

    async def __aiter__(self) -> AsyncIterator[msgspec.Struct]:
        yield Body(image="x", count=self._count)

    def close(self) -> None:
        pass


class FakeSystem:
    """Answers with fixed values."""

    async def info(self) -> SystemInfo:
        raise errors.Unavailable("not now")

    def version(self) -> VersionInfo:
        return VersionInfo(
            version="1", api_version="1.24", git_commit="", go_version="py", min_api_version="1.24", build_time=""
        )

    def events(self, since_ns: int | None, until_ns: int | None, wanted: dict[str, list[str]]) -> FakeEvents:
        return FakeEvents(since_ns or 0)

    async def check_auth(self, auth: AuthConfig) -> str:
        return "token" if auth.username else ""


def _routes(log: list[str]) -> list[Route]:
    async def create(request: web.Request) -> web.Response:
        return reply(request, await read_json(request, Body), 201)

    async def raises(request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        if kind == "crash":
            raise Fail("boom")
        raise getattr(errors, kind)(f"{kind} it is")

    async def echo(request: web.Request) -> web.StreamResponse:
        stream = await hijack(request)
        while data := await stream.read():
            await stream.write(data)
        await stream.write(b"<end>")
        await stream.close()
        return stream.response

    async def refuse(request: web.Request) -> web.StreamResponse:
        raise errors.NotFound("No such exec instance")

    async def slow_change(request: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        log.append("changed")
        return empty()

    async def slow_read(request: web.Request) -> web.Response:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cancelled")
        return empty()

    async def cut(request: web.Request) -> web.StreamResponse:
        response = await raw_stream(request, "text/plain")
        await response.write(b"begun")
        raise errors.Internal("broke in the middle")

    async def progress(request: web.Request) -> web.StreamResponse:
        stream = await json_stream(request)
        await stream.fail(errors.NotFound("gone"))
        return stream.response

    return [
        Route("POST", "/things", create),
        Route("GET", "/fail/{kind}", raises),
        Route("POST", "/containers/{name}/attach", echo),
        Route("POST", "/exec/{id}/start", refuse),
        Route("POST", "/slow", slow_change),
        Route("GET", "/slow", slow_read),
        Route("GET", "/images/{name:.+}/json", lambda request: _name(request)),
        Route("GET", "/cut", cut),
        Route("POST", "/progress", progress),
        *system.routes(FakeSystem()),
    ]


async def _name(request: web.Request) -> web.Response:
    return reply(request, {"name": request.match_info["name"]})


class Served:
    def __init__(self, path: Path, log: list[str]) -> None:
        self.path = path
        self.log = log

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.path))

    async def send(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await self.open()
        lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        head, _, rest = data.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        return int(status.split()[1]), dict(field.split(": ", 1) for field in fields), rest


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    log: list[str] = []
    app = App(_routes(log), server_name="Shoal/test")
    path = tmp_path / "api.sock"
    app.add_listener(await asyncio.get_running_loop().create_unix_server(app.protocol_factory(), str(path)))
    yield Served(path, log)
    await app.close()


@pytest.mark.promise("general.errors.b1", "general.errors.b2", "general.errors.b3", "general.errors.response.message")
async def test_errors_are_json_with_a_message(served: Served) -> None:
    status, headers, body = await served.send("GET", "/v1.24/nothing")
    assert (status, json.loads(body)) == (404, {"message": "page not found"})
    assert headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    ("kind", "status"),
    [("NotFound", 404), ("InvalidArgument", 400), ("Conflict", 409), ("Forbidden", 403), ("NotInSwarm", 406),
     ("NotSupported", 501), ("Unavailable", 500), ("Unauthorized", 401), ("OutOfSequence", 500), ("crash", 500)],
)  # fmt: skip
async def test_each_kind_has_its_status(served: Served, kind: str, status: int) -> None:
    found, _, body = await served.send("GET", f"/fail/{kind}")
    assert found == status
    assert list(json.loads(body)) == ["message"]


async def test_not_modified_has_no_body(served: Served) -> None:
    status, _, body = await served.send("GET", "/fail/NotModified")
    assert (status, body) == (304, b"")


async def test_every_answer_names_server_version_and_system(served: Served) -> None:
    for path in ("/_ping", "/v1.24/_ping", "/nothing", "/v1.99/info", "/fail/Conflict"):
        _, headers, _ = await served.send("GET", path)
        assert headers["Server"] == "Shoal/test (linux)"
        assert headers["Api-Version"] == "1.24"
        assert headers["Ostype"] == "linux"


@pytest.mark.promise("misc.ping.status.200", "misc.ping.b1", "misc.ping.b2")
async def test_ping_answers_get_and_head(served: Served) -> None:
    status, headers, body = await served.send("GET", "/v1.24/_ping")
    assert (status, body) == (200, b"OK")
    assert headers["Content-Type"].startswith("text/plain")
    status, headers, body = await served.send("HEAD", "/_ping")
    assert (status, body, headers["Content-Length"]) == (200, b"", "2")


@pytest.mark.promise(
    "general.unsupported-version.b1",
    "general.unsupported-version.status.400",
    "general.unsupported-version.response.message",
)
async def test_an_unserved_version_is_a_bad_request(served: Served) -> None:
    status, _, body = await served.send("GET", "/v1.99/info")
    assert status == 400
    assert json.loads(body) == {"message": "client version 1.99 is too new. Maximum supported API version is 1.24"}


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"", "body is missing"), (b"{", "invalid JSON"), (b'{"Image": 3}', "$.Image"), (b"{}", "Image"),
     (b'{"Image": "x", "Count": "y"}', "$.Count")],
)  # fmt: skip
async def test_a_bad_body_names_the_field(served: Served, body: bytes, words: str) -> None:
    status, _, answer = await served.send("POST", "/things", body, Content_Type="application/json")
    assert status == 400
    assert words in json.loads(answer)["message"]


async def test_another_content_type_is_refused(served: Served) -> None:
    status, _, answer = await served.send("POST", "/things", b'{"Image": "x"}', Content_Type="text/plain")
    assert status == 400
    assert "Content-Type" in json.loads(answer)["message"]


async def test_a_name_may_hold_slashes_and_escapes(served: Served) -> None:
    _, _, body = await served.send("GET", "/v1.24/images/a.b:5000/c%2Fd/json")
    assert json.loads(body) == {"name": "a.b:5000/c/d"}


@pytest.mark.promise(
    "further.hijacking.b1", "further.hijacking.b3", "further.hijacking.b4", "further.hijacking.status.101"
)
async def test_a_hijacked_stream_carries_typed_ahead_input_and_half_close(served: Served) -> None:
    reader, writer = await served.open()
    writer.write(
        b"POST /v1.24/containers/x/attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nahead "
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
    assert b"Upgrade: tcp" in head
    assert b"Api-Version: 1.24" in head
    assert await reader.readexactly(6) == b"ahead "
    writer.write(b"later")
    writer.write_eof()
    assert await reader.read() == b"later<end>"
    writer.close()
    await writer.wait_closed()


@pytest.mark.promise("further.hijacking.status.200")
async def test_without_upgrade_the_stream_is_a_plain_200(served: Served) -> None:
    reader, writer = await served.open()
    writer.write(b"POST /containers/x/attach HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.write_eof()
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n<end>")
    writer.close()
    await writer.wait_closed()


async def test_a_refused_hijack_leaves_a_plain_connection(served: Served) -> None:
    reader, writer = await served.open()
    body = b"{}"
    for _ in range(2):
        writer.write(
            b"POST /exec/x/start HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            b"Content-Length: 2\r\n\r\n" + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert b"No such exec" in await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()


async def test_a_large_stream_is_carried_whole(served: Served) -> None:
    reader, writer = await served.open()
    writer.write(b"POST /containers/x/attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    sent = bytes(range(256)) * 4096 * 8

    async def feed() -> None:
        for at in range(0, len(sent), 1 << 16):
            writer.write(sent[at : at + (1 << 16)])
            await writer.drain()
        writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        received = await reader.read()
    assert received == sent + b"<end>"
    writer.close()
    await writer.wait_closed()


async def test_a_change_runs_to_its_end_when_the_client_leaves(served: Served) -> None:
    _, writer = await served.open()
    writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(0.01)
    writer.close()
    async with asyncio.timeout(5):
        while served.log != ["changed"]:
            await asyncio.sleep(0.01)


async def test_a_read_is_cancelled_when_the_client_leaves(served: Served) -> None:
    _, writer = await served.open()
    writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(0.02)
    writer.close()
    async with asyncio.timeout(5):
        while served.log != ["cancelled"]:
            await asyncio.sleep(0.01)


async def test_a_stream_that_breaks_is_cut_not_ended(served: Served) -> None:
    _, _, body = await served.send("GET", "/cut")
    assert b"begun" in body
    assert not body.endswith(b"0\r\n\r\n")


async def test_a_failure_within_a_json_stream_is_its_last_object(served: Served) -> None:
    _, _, body = await served.send("POST", "/progress")
    assert b'{"errorDetail":{"message":"gone"},"error":"gone"}\r\n' in body


async def test_version_is_turned_down_to_what_was_asked(served: Served) -> None:
    _, _, body = await served.send("GET", "/v1.24/version")
    assert "MinAPIVersion" not in json.loads(body)


@pytest.mark.promise("misc.auth.status.200", "misc.auth.b3",
                     "misc.auth.response.Status", "misc.auth.response.IdentityToken")  # fmt: skip
async def test_auth_answers_with_a_token_if_there_is_one(served: Served) -> None:
    status, _, body = await served.send("POST", "/auth", b'{"username": "hannibal"}')
    assert (status, json.loads(body)) == (200, {"Status": "Login Succeeded", "IdentityToken": "token"})
    status, _, body = await served.send("POST", "/auth", b"{}")
    assert (status, json.loads(body)) == (200, {"Status": "Login Succeeded", "IdentityToken": ""})


async def test_events_are_streamed_from_a_moment(served: Served) -> None:
    status, _, body = await served.send("GET", "/events?since=5")
    assert status == 200
    assert b'{"Image":"x","Count":5000000000}\n' in body


@pytest.mark.promise("misc.events.status.400", "misc.events.b18")
async def test_bad_event_moments_are_named(served: Served) -> None:
    status, _, body = await served.send("GET", "/events?since=yesterday")
    assert status == 400
    assert "since" in json.loads(body)["message"]
    assert (await served.send("GET", "/events?since=10&until=5"))[0] == 400
