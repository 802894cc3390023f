"""The way to one peer: a bounded queue, one long stream of envelopes, and snapshots on calls of their own.

Invariant: a slow or dead peer costs its queue and no more. When the stream breaks, what was queued is dropped
(Raft sends what is needed again) and the break is told at once: a dead leader is noticed by its socket first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
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
        self._channel = channels(addr)
        self._events = events
        self._queue: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._envelopes = 0
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
        """End the link; with `drain` give what is queued a short time to leave."""
        if drain:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), DRAIN_S)
        await self._tasks.close()
        await self._channel.close()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._envelopes = 0
            try:
                await self._channel.stream_unary(MESSAGES.path)(self._stream())
            except grpc.aio.AioRpcError as error:
                log.debug("raft stream ended peer=%x addr=%s error=%s", self._peer, self.addr, error.details())
            self._queue.clear()
            self._idle.set()
            self._wake.clear()
            self._events.unreachable(self._peer)
            if self._envelopes > 1:  # the first one left, so there was a connection
                self._events.connection_lost(self._peer)
            await asyncio.sleep(RETRY_S)

    async def _stream(self) -> AsyncIterator[bytes]:
        while True:
            if not self._queue:
                self._wake.clear()
                self._idle.set()
                await self._wake.wait()
            messages: list[Message] = []
            size = 0
            while self._queue and size < ENVELOPE_BYTES and len(messages) < ENVELOPE_MESSAGES:
                messages.append(self._queue.popleft())
                size += weight(messages[-1])
            self._envelopes += 1
            yield MESSAGES.encode(Envelope(messages=tuple(messages), addr=self._own_addr))

    def _start_snapshot(self, message: InstallSnapshot) -> None:
        if self._snapshot is not None and not self._snapshot.done():
            return  # one at a time; Raft asks again when this one is over
        self._snapshot = self._tasks.spawn(self._send_snapshot(message), name="snapshot")

    async def _send_snapshot(self, message: InstallSnapshot) -> None:
        delivered = False
        try:
            await self._channel.stream_unary(SNAPSHOT.path)(self._chunks(message), timeout=SNAPSHOT_TIMEOUT_S)
            delivered = True
        except grpc.aio.AioRpcError as error:
            log.warning("raft snapshot not delivered peer=%x error=%s", self._peer, error.details())
        self._events.snapshot_done(self._peer, delivered=delivered)

    async def _chunks(self, message: InstallSnapshot) -> AsyncIterator[bytes]:
        data = message.snapshot.data
        bare = msgspec.structs.replace(message.snapshot, data=b"")
        head = msgspec.structs.replace(message, snapshot=bare)
        yield SNAPSHOT.encode(SnapshotChunk(head=head, addr=self._own_addr))
        for start in range(0, len(data), CHUNK_BYTES):
            yield SNAPSHOT.encode(SnapshotChunk(data=data[start : start + CHUNK_BYTES]))
        yield SNAPSHOT.encode(SnapshotChunk(digest=blake2b(data).digest()))
