"""A websocket as the connection of an attached client (v1.24 "Attach to a container (websocket)", RFC 6455).

Output goes as text messages where it is text, as binary ones where it is not; what the client sends, of either kind,
is the process's input. There is no half-close: a client that closes is gone.
"""

from __future__ import annotations

import asyncio

from aiohttp import WSMsgType, web


class WebSocket:
    """Satisfies the engine's `Connection`."""

    def __init__(self) -> None:
        self.response = web.WebSocketResponse()
        self._lost = asyncio.Event()

    async def open(self, request: web.Request) -> None:
        """Answer the handshake."""
        await self.response.prepare(request)

    async def read(self) -> bytes:
        """The next message; `b""` when no more comes."""
        while not self.response.closed:
            message = await self.response.receive()
            if message.type is WSMsgType.TEXT and message.data:
                return str(message.data).encode()
            if message.type is WSMsgType.BINARY and message.data:
                return bytes(message.data)
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                break
        self._lost.set()
        return b""

    async def write(self, data: bytes) -> None:
        """Waits while the client is slow. Raises ConnectionResetError when it is gone."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            await self.response.send_bytes(data)
        else:
            await self.response.send_str(text)

    async def write_eof(self) -> None:
        """Nothing more comes: the closing handshake."""
        await self.response.close()

    async def close(self) -> None:
        await self.response.close()

    async def wait_lost(self) -> None:
        await self._lost.wait()
