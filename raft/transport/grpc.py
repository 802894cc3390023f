"""The transport of a manager: links to its peers, and the handlers that its server registers.

Trust: the server has verified the caller's certificate and role; here each message must be meant for this member, and
the caller must be allowed to speak for the raft id it claims.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from api.errors import Forbidden, InvalidArgument, NotFound, Unavailable
from api.rpc.methods import Method
from api.rpc.server import Handler, Peer
from base.supervise import TaskOwner
from raft.core.messages import InstallSnapshot, Message
from raft.transport.contract import TransportEvents
from raft.transport.link import ChannelFactory, Link
from raft.transport.methods import MESSAGES, SNAPSHOT, SNAPSHOT_BYTES_MAX, Ack, Envelope, SnapshotChunk

log = logging.getLogger(__name__)
MANAGERS = frozenset({"swarm-manager"})
HINTS_MAX = 64


class GrpcTransport:
    """Satisfies `raft.transport.contract.Transport`."""

    def __init__(
        self,
        *,
        channel_factory: ChannelFactory,
        own_addr: str,
        allow: Callable[[Peer, int], bool] = lambda peer, raft_id: True,
    ) -> None:
        """
        Args:
            channel_factory: gives a channel with this node's certificate to an address; the transport closes it.
            own_addr: where this member listens; told to peers.
            allow: may this certificate's holder speak for this raft id?
        """
        self._channels = channel_factory
        self._own_addr = own_addr
        self._allow = allow
        self._raft_id = 0
        self._events: TransportEvents | None = None
        self._peers: dict[int, str] = {}
        self._hints: dict[int, str] = {}
        """Addresses that callers gave and the membership does not have: a joiner answers its leader with them, and a
        member that moved is answered where it is, though no leader may be there yet to write that down."""
        self._links: dict[int, Link] = {}
        self._retired: set[Link] = set()
        self._retiring: TaskOwner | None = None

    def handlers(self) -> dict[Method[Any, Any], tuple[frozenset[str], Handler]]:
        """What the manager's server registers."""
        return {MESSAGES: (MANAGERS, self._take_messages), SNAPSHOT: (MANAGERS, self._take_snapshot)}

    async def run(self, raft_id: int, events: TransportEvents) -> None:
        self._raft_id, self._events = raft_id, events
        self._retiring = TaskOwner("raft/transport")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._events = None
            await self._retiring.close()
            links = [*self._links.values(), *self._retired]
            self._links, self._retired = {}, set()
            for link in links:
                await link.close(drain=False)

    def set_peers(self, peers: Mapping[int, str]) -> None:
        for peer, addr in peers.items():
            if self._peers.get(peer) != addr:
                self._hints.pop(peer, None)
        self._peers = dict(peers)
        self._drop_stale()

    def _drop_stale(self) -> None:
        """Retire the links that lead elsewhere than their peers are."""
        for peer, link in list(self._links.items()):
            if self._peers.get(peer) is None or self._address(peer) != link.addr:
                del self._links[peer]
                if self._retiring is not None:
                    self._retired.add(link)
                    self._retiring.spawn(self._retire(link), name=f"retire/{peer:x}")

    async def _retire(self, link: Link) -> None:
        """A peer was removed or moved: let the last messages leave. If this is cut short, `run` closes the link."""
        await link.close(drain=True)
        self._retired.discard(link)

    def send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            link = self._link(message.to)
            if link is not None:
                link.send(message)

    def _address(self, peer: int) -> str | None:
        return self._hints.get(peer) or self._peers.get(peer)

    def _link(self, peer: int) -> Link | None:
        link = self._links.get(peer)
        if link is None:
            addr = self._address(peer)
            if not addr or self._events is None:
                return None
            link = self._links[peer] = Link(
                peer=peer, addr=addr, own_addr=self._own_addr, channels=self._channels, events=self._events
            )
        return link

    # The server's side

    def _check(self, message: Message, peer: Peer, addr: str) -> TransportEvents:
        if self._events is None:
            raise Unavailable("raft is not running on this node")
        if message.to != self._raft_id:
            raise NotFound(f"raft member {message.to:x} is not on this node")
        if not self._allow(peer, message.sender):
            raise Forbidden(f"node {peer.node_id} is not raft member {message.sender:x}")
        if addr:
            self.learn(message.sender, addr)
        return self._events

    def learn(self, peer: int, addr: str) -> None:
        """A member says where it listens; the caller has checked that it speaks for this id."""
        if addr == self._address(peer):
            return
        if addr == self._peers.get(peer):
            del self._hints[peer]
        elif len(self._hints) < HINTS_MAX or peer in self._hints:
            self._hints[peer] = addr
        if peer in self._peers:
            self._drop_stale()

    async def _take_messages(self, stream: AsyncIterator[Envelope], peer: Peer) -> Ack:
        senders: set[int] = set()
        try:
            async for envelope in stream:
                for message in envelope.messages:
                    events = self._check(message, peer, envelope.addr)
                    senders.add(message.sender)
                    events.receive(message)
        finally:
            # Whatever ended the stream: its sender's process or connection may be gone.
            if self._events is not None:
                for sender in senders:
                    self._events.connection_lost(sender)
        return Ack()

    async def _take_snapshot(self, stream: AsyncIterator[SnapshotChunk], peer: Peer) -> Ack:
        head: InstallSnapshot | None = None
        data, digest = bytearray(), b""
        async for chunk in stream:
            if head is None:
                if chunk.head is None:
                    raise InvalidArgument("a snapshot begins with its head")
                head = chunk.head
                self._check(head, peer, chunk.addr)
            data += chunk.data
            digest = chunk.digest
            if len(data) > SNAPSHOT_BYTES_MAX:
                raise InvalidArgument(f"the snapshot is larger than {SNAPSHOT_BYTES_MAX} bytes")
        if head is None or blake2b(data).digest() != digest:
            raise InvalidArgument("the snapshot is incomplete")
        snapshot = msgspec.structs.replace(head.snapshot, data=bytes(data))
        self._check(head, peer, "").receive(msgspec.structs.replace(head, snapshot=snapshot))
        return Ack()
