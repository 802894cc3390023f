"""Links and handlers by themselves: bounds, chunks, and breaks that are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc
import pytest

from api.rpc.client import CHANNEL_OPTIONS, SERVER_OPTIONS
from api.rpc.server import chain_only, service
from raft.core.messages import Heartbeat, InstallSnapshot, Message, Snapshot
from raft.transport.grpc import GrpcTransport
from raft.transport.methods import QUEUE_MESSAGES, SNAPSHOT, SnapshotChunk
from tests.unit.raft.certificates import Authority
from tests.unit.raft.group import handlers_ended


@dataclass
class Events:
    received: list[Message] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    snapshots: list[tuple[int, bool]] = field(default_factory=list)

    def receive(self, message: Message) -> None:
        self.received.append(message)

    def connection_lost(self, peer: int) -> None:
        self.lost.append(peer)

    def unreachable(self, peer: int) -> None:
        self.dropped.append(peer)

    def snapshot_done(self, peer: int, *, delivered: bool) -> None:
        self.snapshots.append((peer, delivered))


class End:
    """One transport with its server."""

    def __init__(self, raft_id: int, authority: Authority) -> None:
        self.raft_id = raft_id
        self.identity = authority.issue(f"node-{raft_id}")
        self.events = Events()

    async def start(self) -> None:
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        self.addr = f"127.0.0.1:{self.server.add_secure_port('127.0.0.1:0', self.identity.server())}"
        self.transport = GrpcTransport(channel_factory=self.channel, own_addr=self.addr)
        self.server.add_generic_rpc_handlers((service(self.transport.handlers(), verify=chain_only),))
        await self.server.start()
        run = self.transport.run(self.raft_id, self.events)
        self.running = asyncio.get_running_loop().create_task(run)
        await asyncio.sleep(0)

    def channel(self, addr: str) -> grpc.aio.Channel:
        return self.identity.channel(addr, CHANNEL_OPTIONS)

    async def stop(self) -> None:
        await self.server.stop(None)
        self.running.cancel()
        await asyncio.wait([self.running])


@pytest.fixture
async def ends() -> AsyncIterator[tuple[End, End]]:
    authority = Authority()
    one, two = End(1, authority), End(2, authority)
    for end in (one, two):
        await end.start()
    one.transport.set_peers({2: two.addr})
    two.transport.set_peers({1: one.addr})
    yield one, two
    await one.stop()
    await two.stop()
    await handlers_ended()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def beat(number: int, *, to: int = 2, sender: int = 1) -> Heartbeat:
    return Heartbeat(to=to, sender=sender, term=1, commit=number)


async def test_messages_arrive_in_order(ends: tuple[End, End]) -> None:
    one, two = ends
    sent = [beat(number) for number in range(700)]
    one.transport.send(sent)
    await until(lambda: len(two.events.received) == 700)
    assert two.events.received == sent


async def test_a_dead_peer_costs_a_bounded_queue(ends: tuple[End, End]) -> None:
    one, two = ends
    await two.stop()
    one.transport.send(beat(number) for number in range(QUEUE_MESSAGES + 100))
    assert one.events.dropped == [2] * 100
    await until(lambda: len(one.events.dropped) > 100)  # and what was queued is given up
    assert not one.transport._links[2]._queue


async def test_a_broken_connection_is_told_on_both_sides(ends: tuple[End, End]) -> None:
    one, two = ends
    one.transport.send([beat(1), beat(2)])
    two.transport.send([beat(1, to=1, sender=2)])
    await until(lambda: two.events.received and one.events.received)
    await two.stop()
    await until(lambda: one.events.lost)
    assert set(one.events.lost) == {2}


async def test_a_snapshot_larger_than_a_message_arrives_whole(ends: tuple[End, End]) -> None:
    one, two = ends
    message = InstallSnapshot(
        to=2, sender=1, term=3, snapshot=Snapshot(index=9, term=2, data=bytes(range(256)) * 40_000)
    )
    one.transport.send([message])
    await until(lambda: one.events.snapshots)
    assert one.events.snapshots == [(2, True)]
    assert two.events.received == [message]


async def test_a_snapshot_to_a_dead_peer_is_reported(ends: tuple[End, End]) -> None:
    one, two = ends
    await two.stop()
    one.transport.send([InstallSnapshot(to=2, sender=1, term=3, snapshot=Snapshot(index=9, term=2, data=b"x"))])
    await until(lambda: one.events.snapshots)
    assert one.events.snapshots == [(2, False)]


@pytest.mark.parametrize("digest", [b"", b"wrong"])
async def test_an_incomplete_snapshot_is_refused(ends: tuple[End, End], digest: bytes) -> None:
    one, two = ends
    head = InstallSnapshot(to=2, sender=1, term=3, snapshot=Snapshot(index=9, term=2))
    channel = one.channel(two.addr)
    chunks = [SnapshotChunk(head=head), SnapshotChunk(data=b"half"), SnapshotChunk(digest=digest)]
    with pytest.raises(grpc.aio.AioRpcError, match="the snapshot is incomplete"):
        await channel.stream_unary(SNAPSHOT.path)(iter([SNAPSHOT.encode(chunk) for chunk in chunks]))
    await channel.close()
    assert two.events.received == []


async def test_a_member_without_an_address_is_answered_where_it_calls_from(ends: tuple[End, End]) -> None:
    one, two = ends
    two.transport.set_peers({})
    one.transport.send([beat(1)])
    await until(lambda: two.events.received)
    two.transport.send([beat(5, to=1, sender=2)])
    await until(lambda: one.events.received)
