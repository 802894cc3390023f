"""The way to the leader: operations run here when this manager leads, and travel to the leader when it does not.

A call that finds no leader waits for one, up to `LEADER_WAIT_S`: elections are short. An operation is sent again only
when it is known that nothing was done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc
import msgspec

from api import errors
from api.rpc.client import call
from api.rpc.server import Peer
from api.rpc.swarm_methods import CONTROL_CALL
from api.types.dispatch import ForwardRequest, ForwardResponse
from base.supervise import TaskOwner
from manager import operations as ops
from raft.errors import HandingOver, NotLeader

NO_LEADER = (
    "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are "
    "online. Make sure more than half of the managers are online."
)
LEADER_WAIT_S = 10.0
FORWARD_TIMEOUT_S = 60.0
"""Longer than what the leader may take: a Raft member that joins has to catch up."""
ANYWHERE_TIMEOUT_S = 5.0
POLL_S = 0.1
_NOTHING_DONE = (str(NotLeader().message).partition(";")[0], HandingOver().message)
"""How these errors begin: across the wire their kind is Unavailable, like others."""


class LeaderView(Protocol):
    """Who leads, as `raft.node.Status` says it."""

    @property
    def is_leader(self) -> bool: ...

    @property
    def leader_id(self) -> int: ...

    @property
    def leader_addr(self) -> str: ...

    @property
    def raft_id(self) -> int: ...


class Raft(Protocol):
    def status(self) -> LeaderView: ...

    async def read_barrier(self, timeout: float = 10.0) -> int: ...


class LeaderLink:
    """Satisfies `manager.controlapi.control.Leader`; its `serve` answers other managers."""

    def __init__(
        self,
        raft: Raft,
        channels: Callable[[str], grpc.aio.Channel],
        heard: Callable[[ops.MoveMember], None] = lambda operation: None,
    ) -> None:
        """`heard` is told of a member that moved, by itself, while nobody here can write that down."""
        self._raft = raft
        self._channels = channels
        self._heard = heard
        self._handlers: ops.Handlers = {}
        self._channel: tuple[str, grpc.aio.Channel] | None = None
        self._closing = TaskOwner("leader-link")

    def bind(self, handlers: ops.Handlers) -> None:
        """What runs the operations here."""
        missing = set(ops.OPERATIONS) - set(handlers)
        assert not missing, f"no handler for {missing}"
        self._handlers = handlers

    async def read_barrier(self) -> None:
        """Raises Unavailable with Docker's words when no leader with a majority answers."""
        try:
            await self._raft.read_barrier(LEADER_WAIT_S)
        except errors.Unavailable:
            raise errors.Unavailable(NO_LEADER) from None

    async def execute(self, operation: ops.Operation) -> Any:
        """Run on the leader.

        Raises:
            Unavailable: no leader was found in time, or it was lost on the way and the outcome is unknown.
            ShoalError: what the operation itself raised, of the same kind wherever it ran.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LEADER_WAIT_S
        while True:
            try:
                status = self._raft.status()
                if status.is_leader:
                    return await self._handlers[type(operation)](operation)
                if status.leader_addr and status.leader_id != status.raft_id:
                    return await self._forward(status.leader_addr, operation)
            except errors.Unavailable as error:
                if not _nothing_done(error):
                    raise
            if loop.time() >= deadline:
                raise errors.Unavailable(NO_LEADER)
            await asyncio.sleep(POLL_S)

    async def execute_anywhere(self, operation: ops.Operation, addrs: Sequence[str]) -> bool:
        """Run on the leader, wherever among `addrs` (or here) it is; whether that came to pass."""
        if self._raft.status().is_leader:
            try:
                await self._handlers[type(operation)](operation)
                return True
            except errors.ShoalError:
                return False
        request = ForwardRequest(method=type(operation).__name__, arguments=msgspec.msgpack.encode(operation))
        for addr in addrs:
            channel = self._channels(addr)
            try:
                await call(channel, CONTROL_CALL, request, timeout=ANYWHERE_TIMEOUT_S)
                return True
            except errors.ShoalError:
                continue
            finally:
                await channel.close()
        return False

    async def serve(self, request: ForwardRequest, peer: Peer) -> ForwardResponse:
        """The handler of CONTROL_CALL: only what this manager can do itself; a call is forwarded once at most."""
        kind = ops.BY_NAME.get(request.method)
        if kind is None:
            raise errors.NotSupported(f"this manager does not know the operation {request.method}")
        operation = msgspec.msgpack.decode(request.arguments, type=kind)
        status = self._raft.status()
        if not status.is_leader:
            if isinstance(operation, ops.MoveMember) and operation.node_id == peer.node_id:
                self._heard(operation)
            raise NotLeader(status.leader_id, status.leader_addr)
        return ForwardResponse(result=msgspec.msgpack.encode(await self._handlers[kind](operation)))

    def renewed(self) -> None:
        """This node has another certificate: connections that were made with the old one are used no more, for it will
        expire. Calls that are under way on them come to their end."""
        self._retire()

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel[1].close()
        await self._closing.close()

    async def _forward(self, addr: str, operation: ops.Operation) -> Any:
        request = ForwardRequest(method=type(operation).__name__, arguments=msgspec.msgpack.encode(operation))
        channel = self._channel_to(addr)
        response = await call(channel, CONTROL_CALL, request, timeout=FORWARD_TIMEOUT_S)
        return msgspec.msgpack.decode(response.result, type=ops.OPERATIONS[type(operation)])

    def _channel_to(self, addr: str) -> grpc.aio.Channel:
        if self._channel is None or self._channel[0] != addr:
            self._retire()
            self._channel = addr, self._channels(addr)
        return self._channel[1]

    def _retire(self) -> None:
        old, self._channel = self._channel, None
        if old is not None:
            self._closing.spawn(old[1].close(FORWARD_TIMEOUT_S), name="close")


def _nothing_done(error: errors.Unavailable) -> bool:
    """Whether the error says that the asked manager did not lead, or was about to stop, and so did nothing."""
    return error.message.startswith(_NOTHING_DONE)
