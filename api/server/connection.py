"""One client connection: aiohttp's HTTP/1.1 handler, taught to hand the connection over to a stream.

The hard part of hijacking is what the client sends right behind its request. Between two requests, bytes are held
until a whole head is here (`api.wire.head`); if that request takes the connection over, its own bytes go to
the parser and the rest waits in `held` until `RawStream` takes the transport.

This leans on aiohttp's RequestHandler (`data_received`, `eof_received`, `_messages`); the dependency's
range is narrow, and tests/unit/api/test_server.py and test_connection.py pin the behaviour.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from api.wire import head


class Connection(RequestHandler):
    """The protocol of one accepted connection until it is hijacked."""

    __slots__ = ("_head", "_held", "_hijacker", "_last", "_own", "held_eof", "taking_over")

    def __init__(self, server: web.Server, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._head = bytearray()
        self._held = bytearray()
        self._own = 0
        self._last: tuple[Any, Any] | None = None
        self._hijacker: object = None
        self.taking_over = False
        self.held_eof = False

    @property
    def between_requests(self) -> bool:
        """The last request has come whole: the next byte begins another, whether that one is answered yet or not.

        Told from what was fed to the parser alone. aiohttp's own signs of idleness lag some turns of the event loop
        behind: a body that came in those turns was held for a head, and a hijack that came early was not seen.
        """
        return self._last is None or self._last[1].is_eof()

    def data_received(self, data: bytes) -> None:
        if self.taking_over:
            self._while_taking_over(data)
        elif self._upgraded:  # a websocket from here on
            super().data_received(data)
        elif self._head or (self.between_requests and data):
            self._head += data
            if head.complete(self._head):
                self._at_head()
        else:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            self._last = self._messages[-1]

    def _at_head(self) -> None:
        data, self._head = bytes(self._head), bytearray()
        found = head.cut(data)
        if found is None:
            self._feed(data)
            return
        self.taking_over = True
        self._own = found.body_bytes
        self._feed(found.head)
        self._hijacker = self._last and self._last[0]
        self._while_taking_over(data[found.head_bytes :])

    def _while_taking_over(self, data: bytes) -> None:
        own, rest = data[: self._own], data[self._own :]
        self._own -= len(own)
        if own:
            self._feed(own)
        if rest:
            self._held += rest
            if len(self._held) > head.HEAD_BYTES_MAX:
                self._pause_transport_reading()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        if self.taking_over:
            self.held_eof = True
            return True
        return super().eof_received()

    def take_held(self) -> bytes:
        """What the client sent behind its request."""
        held, self._held = bytes(self._held), bytearray()
        return held

    def not_taken_over(self, message: object) -> None:
        """The request was answered in the ordinary way (an error): go on as a plain HTTP connection.

        `message` is the parsed head of the request; one that was sent before the hijacking one changes nothing.
        """
        if self.taking_over and message is self._hijacker:
            self.taking_over = False
            rest = self.take_held()
            if self.held_eof and self.transport is not None:
                self.transport.close()
            elif rest:
                self.data_received(rest)


class ConnectionServer(web.Server):
    """Makes a `Connection` for each accepted client."""

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)
