"""A request whose head and body come in pieces is understood, whenever the pieces come."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from api.server.app import App
from api.server.connection import Connection
from api.server.http import Route, empty, hijack, reply


async def _length(request: web.Request) -> web.Response:
    return reply(request, {"Length": len(await request.read())})


@pytest.mark.parametrize("turns", range(8))
async def test_a_body_that_comes_some_turns_after_its_head(tmp_path: Path, turns: int) -> None:
    app = App([Route("POST", "/length", _length)], server_name="test")
    made: list[Connection] = []

    def factory() -> Connection:
        made.append(app.protocol_factory()())  # type: ignore[arg-type]
        return made[-1]

    listener = await asyncio.get_running_loop().create_unix_server(factory, tmp_path / "s")
    app.add_listener(listener)
    try:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        for _ in range(3):  # the first request of a connection, and later ones
            writer.write(b"POST /length HTTP/1.1\r\nHost: x\r\n")
            while not made or not made[0]._head:
                await asyncio.sleep(0)
            # The rest is handed over directly, so that the event loop's turns between the pieces are counted.
            made[0].data_received(b"Content-Length: 5\r\n\r\n")
            for _ in range(turns):
                await asyncio.sleep(0)
            made[0].data_received(b"12345")
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                assert b" 200 " in head.splitlines()[0]
                assert await reader.readuntil(b"}") == b'{"Length":5}'
                await reader.readline()
        writer.close()
    finally:
        await app.close()


async def _echo(request: web.Request) -> web.StreamResponse:
    stream = await hijack(request)
    while data := await stream.read():
        await stream.write(data)
    await stream.close()
    return stream.response


async def test_a_hijack_right_behind_another_request(tmp_path: Path) -> None:
    """Sent before the first one is answered: it still takes the connection over, with the bytes behind it."""
    started = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await started.wait()
        return empty()

    app = App(
        [Route("GET", "/slow", slow), Route("POST", "/containers/{name}/attach", _echo)],
        server_name="test",
    )
    listener = await asyncio.get_running_loop().create_unix_server(app.protocol_factory(), tmp_path / "s")
    app.add_listener(listener)
    try:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.01)
        upgrade = b"Connection: Upgrade\r\nUpgrade: tcp\r\n"
        writer.write(b"POST /containers/c/attach HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\nearly")
        await asyncio.sleep(0.01)
        started.set()
        writer.write_eof()
        async with asyncio.timeout(5):
            assert b" 204 " in await reader.readuntil(b"\r\n\r\n")
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            assert await reader.read() == b"early"
        writer.close()
    finally:
        await app.close()
