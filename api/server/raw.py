"""A hijacked connection: raw bytes both ways, with half-close and back-pressure (v1.24 section 4.2)."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from api.server.connection import Connection

READ_BUFFER_BYTES = 256 * 1024
"""Beyond this much unread input the client is held back."""


class Taken(web.StreamResponse):
    """What a handler returns after it took the connection: nothing more is written."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        del request
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        del data

    @property
    def keep_alive(self) -> bool | None:
        return False


class _RawProtocol(asyncio.Protocol):
    def __init__(self, stream: RawStream, before: Connection) -> None:
        self._stream = stream
        self._before = before

    def data_received(self, data: bytes) -> None:
        self._stream.feed(data)

    def eof_received(self) -> bool:
        self._stream.feed_eof()
        return True  # keep our side open: the client only closed its stdin

    def pause_writing(self) -> None:
        self._stream.writable.clear()

    def resume_writing(self) -> None:
        self._stream.writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._stream.lose()
        self._before.connection_lost(error)


class RawStream:
    """The connection after the switch."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._eof = False
        self._lost = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self.response: web.StreamResponse = Taken()
        self._buffer += connection.take_held()
        self._eof = connection.held_eof
        if self._buffer or self._eof:
            self._arrived.set()
        transport.set_protocol(_RawProtocol(self, connection))
        transport.resume_reading()

    def feed(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()
        if len(self._buffer) > READ_BUFFER_BYTES:
            self._transport.pause_reading()

    def feed_eof(self) -> None:
        self._eof = True
        self._arrived.set()

    def lose(self) -> None:
        self._lost.set()
        self.writable.set()
        self.feed_eof()

    async def read(self) -> bytes:
        """What the client sent next; `b""` when it has closed its sending side, or is gone."""
        await self._arrived.wait()
        data = bytes(self._buffer)
        self._buffer.clear()
        if not self._eof:
            self._arrived.clear()
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send; waits while the client is slow. Raises ConnectionResetError when it is gone."""
        await self.writable.wait()
        if self._lost.is_set() or self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)

    async def write_eof(self) -> None:
        """Close our sending side; the client may still send."""
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    async def close(self) -> None:
        """Flush what was written and close."""
        self._transport.close()

    def abort(self) -> None:
        """Cut the connection: what was not sent is lost."""
        self._transport.abort()

    async def wait_lost(self) -> None:
        """Until the connection is gone."""
        await self._lost.wait()
