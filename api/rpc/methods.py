"""How an RPC method is declared: a path, its shape, and the types on both ends. No generated code."""

from __future__ import annotations

import enum
from typing import Any, Generic, TypeVar

import msgspec

Req = TypeVar("Req")
Resp = TypeVar("Resp")

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Larger messages must be cut by their sender (snapshots go in chunks, assignments in batches)."""


class Shape(enum.Enum):
    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    CLIENT_STREAM = "client_stream"
    DUPLEX = "duplex"


class Method(Generic[Req, Resp]):
    """`Method("/shoal.Dispatcher/Heartbeat", HeartbeatRequest, HeartbeatResponse)`; immutable, made once."""

    def __init__(self, path: str, request: type[Req], response: type[Resp], shape: Shape = Shape.UNARY) -> None:
        self.path = path
        self.shape = shape
        self._encoder = msgspec.msgpack.Encoder()
        self._request = msgspec.msgpack.Decoder(request)
        self._response = msgspec.msgpack.Decoder(response)

    def encode(self, message: Any) -> bytes:
        return self._encoder.encode(message)

    def decode_request(self, data: bytes) -> Req:
        """Raises msgspec.ValidationError for a message of another shape: the trust boundary."""
        return self._request.decode(data)

    def decode_response(self, data: bytes) -> Resp:
        return self._response.decode(data)
