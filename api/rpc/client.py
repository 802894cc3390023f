"""The client's side: one call, typed on both ends, failing with our error kinds."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Any, TypeVar

import grpc

from api.rpc.faults import from_rpc
from api.rpc.methods import MESSAGE_BYTES_MAX, Method

Req = TypeVar("Req")
Resp = TypeVar("Resp")

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]
"""For every channel between nodes. The server sets `grpc.http2.min_ping_interval_without_data_ms` to match."""

SERVER_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
]


async def call(channel: grpc.aio.Channel, method: Method[Req, Resp], request: Req, *, timeout: float) -> Resp:
    """A unary call.

    Raises:
        ShoalError: the kind the server raised, or Unavailable when it can't be reached within `timeout` seconds.

    Cancellation: the server may or may not have acted.
    """
    invoke = channel.unary_unary(method.path)
    try:
        return method.decode_response(await invoke(method.encode(request), timeout=timeout))
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from None


async def call_stream(
    channel: grpc.aio.Channel, method: Method[Req, Resp], request: Req, *, timeout: float | None = None
) -> AsyncGenerator[Resp, None]:
    """One request, a stream of answers. Closing the generator (contextlib.aclosing) cancels the call."""
    invoke = channel.unary_stream(method.path)(method.encode(request), timeout=timeout)
    try:
        async for data in invoke:
            yield method.decode_response(data)
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from None
    finally:
        invoke.cancel()


async def call_duplex(
    channel: grpc.aio.Channel, method: Method[Req, Resp], requests: AsyncIterable[Req]
) -> AsyncGenerator[Resp, None]:
    """Streams both ways. Closing the generator (contextlib.aclosing) cancels the call."""

    async def encoded() -> AsyncIterator[bytes]:
        async for request in requests:
            yield method.encode(request)

    invoke = channel.stream_stream(method.path)(encoded())
    try:
        async for data in invoke:
            yield method.decode_response(data)
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from None
    finally:
        invoke.cancel()
