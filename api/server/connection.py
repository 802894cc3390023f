"""One client connection: aiohttp's HTTP/1.1 handler, taught to hand the connection over to a stream.

The hard part of hijacking is what the client sends right behind its request. While no request is in progress, bytes
are held until a whole head is here (`api.wire.head`); if that request takes the connection over, its own bytes go to
the parser and the rest waits in `held` until `RawStream` takes the transport.

This leans on aiohttp's RequestHandler (`data_received`, `eof_received`, `_request_in_progress`); the dependency's
range is narrow and tests/integration/test_hijack.py pins the behaviour.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from api.wire import head


class Connection(RequestHandler):
    """The protocol of one accepted connection until it is hijacked."""

    __slots__ = ("_head", "_held", "_own", "held_eof", "taking_over")

    def __init__(self, server: web.Server, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._head = bytearray()
        self._held = bytearray()
        self._own = 0
        self.taking_over = False
        self.held_eof = False

    @property
    def idle(self) -> bool:
        """No request is being read or answered: the next byte begins a request."""
        return not self._request_in_progress and not self._messages and not self._head

    def data_received(self, data: bytes) -> None:
        if self.taking_over:
            self._while_taking_over(data)
        elif self._head or (self.idle and data):
            self._head += data
            if head.complete(self._head):
                self._at_head()
        else:
            super().data_received(data)

    def _at_head(self) -> None:
        data, self._head = bytes(self._head), bytearray()
        found = head.cut(data)
        if found is None:
            super().data_received(data)
            return
        self.taking_over = True
        self._own = found.body_bytes
        super().data_received(found.head)
        self._while_taking_over(data[found.head_bytes :])

    def _while_taking_over(self, data: bytes) -> None:
        own, rest = data[: self._own], data[self._own :]
        self._own -= len(own)
        if own:
            super().data_received(own)
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

    def not_taken_over(self) -> None:
        """The request was answered in the ordinary way (an error): go on as a plain HTTP connection."""
        if self.taking_over:
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
