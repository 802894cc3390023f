"""The way to one peer: a bounded queue, one long stream of envelopes, and snapshots on calls of their own.

Invariant: a slow or dead peer costs its queue and no more. When the stream breaks, what was queued is dropped
(Raft sends what is needed again) and the break is told at once: a dead leader is noticed by its socket first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator
from hashlib import blake2b

import grpc
import msgspec

from base.supervise import TaskOwner
from raft.core.messages import InstallSnapshot, Message
from raft.transport.contract import TransportEvents
from raft.transport.methods import (
    CHUNK_BYTES,
    ENVELOPE_BYTES,
    ENVELOPE_MESSAGES,
    MESSAGES,
    QUEUE_MESSAGES,
    SNAPSHOT,
    SNAPSHOT_TIMEOUT_S,
    Envelope,
    SnapshotChunk,
    weight,
)

log = logging.getLogger(__name__)
RETRY_S = 0.1
CHANNEL_AGE_S = 30.0
"""A broken channel older than this is made anew: this node's certificate may have been renewed since."""
DRAIN_S = 1.0
ChannelFactory = Callable[[str], grpc.aio.Channel]


class Link:
    """Owned by a transport, which calls `send`, and `close` in the end."""

    def __init__(
        self, *, peer: int, addr: str, own_addr: str, channels: ChannelFactory, events: TransportEvents
    ) -> None:
        self.addr = addr
        self._peer = peer
        self._own_addr = own_addr
        self._channels = channels
        self._channel = channels(addr)
        self._channel_since = asyncio.get_running_loop().time()
        self._events = events
        self._queue: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._written = 0
        """Envelopes of the present stream that have left."""
        self._snapshot: asyncio.Task[None] | None = None
        self._tasks = TaskOwner(f"raft/link/{peer:x}")
        self._tasks.spawn(self._run(), name="messages")

    def send(self, message: Message) -> None:
        if isinstance(message, InstallSnapshot):
            self._start_snapshot(message)
        elif len(self._queue) >= QUEUE_MESSAGES:
            self._events.unreachable(self._peer)
        else:
            self._queue.append(message)
            self._idle.clear()
            self._wake.set()

    async def close(self, *, drain: bool) -> None:
        """End the link (again, if that was cut short); with `drain` give what is queued a short time to leave."""
        if drain:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), DRAIN_S)
        await self._tasks.close()
        await self._channel.close()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._written = 0
            call = self._channel.stream_unary(MESSAGES.path)()
            call.add_done_callback(self._stream_ended)
            try:
                await self._stream(call)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                log.debug("raft stream ended peer=%x addr=%s error=%s", self._peer, self.addr, error)
            finally:
                call.cancel()
            self._queue.clear()
            self._idle.set()
            self._wake.clear()
            self._events.unreachable(self._peer)
            if self._written:
                self._events.connection_lost(self._peer)
            await asyncio.sleep(RETRY_S)
            await self._maybe_renew_channel()

    async def _maybe_renew_channel(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._channel_since > CHANNEL_AGE_S:
            await self._channel.close()
            self._channel, self._channel_since = self._channels(self.addr), now

    def _stream_ended(self, _call: object) -> None:
        self._wake.set()

    async def _stream(self, call: grpc.aio.StreamUnaryCall) -> None:
        """Write what is queued for as long as the call lives. (Not as a request iterator: grpc leaves the task that
        reads one behind when the call breaks.)"""
        while not call.done():
            if not self._queue:
                self._wake.clear()
                self._idle.set()
                await self._wake.wait()
                continue
            messages: list[Message] = []
            size = 0
            while self._queue and size < ENVELOPE_BYTES and len(messages) < ENVELOPE_MESSAGES:
                messages.append(self._queue.popleft())
                size += weight(messages[-1])
            await call.write(MESSAGES.encode(Envelope(messages=tuple(messages), addr=self._own_addr)))
            self._written += 1

    def _start_snapshot(self, message: InstallSnapshot) -> None:
        if self._snapshot is not None and not self._snapshot.done():
            return  # one at a time; Raft asks again when this one is over
        self._snapshot = self._tasks.spawn(self._send_snapshot(message), name="snapshot")

    async def _send_snapshot(self, message: InstallSnapshot) -> None:
        delivered = False
        # A channel of its own: the long stream may go on under a certificate that opens no new call any more.
        channel = self._channels(self.addr)
        call = channel.stream_unary(SNAPSHOT.path)(timeout=SNAPSHOT_TIMEOUT_S)
        try:
            for chunk in self._chunks(message):
                await call.write(SNAPSHOT.encode(chunk))
            await call.done_writing()
            await call
            delivered = True
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            log.warning("raft snapshot not delivered peer=%x error=%s", self._peer, error)
        finally:
            call.cancel()
            await channel.close()
        self._events.snapshot_done(self._peer, delivered=delivered)

    def _chunks(self, message: InstallSnapshot) -> Iterator[SnapshotChunk]:
        data = message.snapshot.data
        bare = msgspec.structs.replace(message.snapshot, data=b"")
        head = msgspec.structs.replace(message, snapshot=bare)
        yield SnapshotChunk(head=head, addr=self._own_addr)
        for start in range(0, len(data), CHUNK_BYTES):
            yield SnapshotChunk(data=data[start : start + CHUNK_BYTES])
        yield SnapshotChunk(digest=blake2b(data).digest())
