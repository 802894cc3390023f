"""Three real members over loopback gRPC with mutual TLS and SQLite logs."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api.errors import Conflict, Forbidden, NotFound, Unavailable
from api.rpc.client import CHANNEL_OPTIONS
from raft.core.messages import Append, Entry, EntryKind, Heartbeat
from raft.errors import NotLeader
from raft.storage.sqlite import SqliteStorage
from raft.transport.methods import MESSAGES, Envelope
from tests.unit.raft.group import Group, Host


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    group = Group(tmp_path)
    yield group
    await group.close()


async def test_a_founder_leads_alone_and_survives_a_restart(group: Group) -> None:
    await group.grow(1)
    (founder,) = group.hosts
    first = await founder.node.propose(b"a=1")
    second = await founder.node.propose(b"a=2")
    assert (first.result, second.result) == (None, "1")
    assert second.index > first.index
    await founder.stop()
    await founder.start()
    await group.leader()
    await founder.node.read_barrier()
    assert founder.machine.values == {"a": "2"}


async def test_three_members_agree_and_read_everywhere(group: Group) -> None:
    await group.grow(3)
    leader = await group.leader()
    for number in range(20):
        applied = await leader.node.propose(f"n={number}".encode())
        for host in group.hosts:
            assert await host.node.read_barrier() >= applied.index
            assert host.machine.values["n"] == str(number)


async def test_many_proposals_at_once_share_batches_and_keep_their_results(group: Group) -> None:
    await group.grow(3)
    leader = await group.leader()
    answers = await asyncio.gather(*(leader.node.propose(f"k{n}=v".encode()) for n in range(200)))
    assert len({answer.index for answer in answers}) == 200
    await group.agree("k199", "v")
    assert leader.node.status().members.keys() == {1, 2, 3}


async def test_a_follower_refuses_proposals_and_names_the_leader(group: Group) -> None:
    await group.grow(3)
    leader = await group.leader()
    follower = next(host for host in group.hosts if host is not leader)
    with pytest.raises(NotLeader) as refusal:
        await follower.node.propose(b"a=1")
    assert (refusal.value.leader_id, refusal.value.leader_addr) == (leader.raft_id, leader.addr)


async def test_a_dead_leader_is_replaced_before_the_election_timeout(group: Group) -> None:
    await group.grow(3)
    leader = await group.leader()
    await leader.node.propose(b"before=1")
    start = time.monotonic()
    await leader.stop()
    successor = await group.leader()
    took_s = time.monotonic() - start
    assert successor is not leader
    await successor.node.propose(b"after=1")
    assert successor.machine.values == {"before": "1", "after": "1"}
    assert took_s < 2.0
    await leader.start()
    await group.agree("after", "1")


async def test_without_a_majority_nothing_is_agreed_or_read(group: Group) -> None:
    await group.grow(3)
    leader = await group.leader()
    for host in group.hosts:
        if host is not leader:
            await host.stop()
    with pytest.raises(Unavailable):
        await leader.node.propose(b"a=1")
    with pytest.raises(Unavailable):
        await leader.node.read_barrier(timeout=0.2)
    assert "a" not in leader.machine.values


async def test_a_member_far_behind_gets_a_snapshot(group: Group) -> None:
    await group.grow(3)
    leader = await group.leader()
    late = next(host for host in group.hosts if host is not leader)
    await late.stop()
    for number in range(120):
        await leader.node.propose(f"n={number}".encode() + b"x" * 20_000)
    await late.start()
    await group.agree("n", "119" + "x" * 20_000)
    assert late.machine.restored == 1
    newcomer = await group.join(4)
    await group.agree("n", "119" + "x" * 20_000, [newcomer])
    assert newcomer.machine.restored == 1


async def test_members_are_removed_and_their_ids_never_return(group: Group) -> None:
    await group.grow(3)
    leader = await group.leader()
    gone = next(host for host in group.hosts if host is not leader)
    await leader.node.remove(gone.raft_id)
    assert gone.raft_id not in leader.node.status().members
    with pytest.raises(Conflict, match="was removed"):
        await leader.node.add_learner(gone.raft_id, gone.addr)
    with pytest.raises(NotFound):
        await leader.node.remove(gone.raft_id)
    await gone.stop()
    await leader.node.propose(b"a=1")


async def test_a_removal_that_would_cost_the_majority_is_refused(group: Group) -> None:
    await group.grow(3)
    leader = await group.leader()
    dead, alive = (host for host in group.hosts if host is not leader)
    await dead.stop()
    async with asyncio.timeout(10):
        while leader.node.status().members[dead.raft_id].recent_active:
            await asyncio.sleep(0.01)
    with pytest.raises(Conflict, match="loss of quorum"):
        await leader.node.remove(alive.raft_id)
    await leader.node.remove(dead.raft_id)
    await leader.node.propose(b"a=1")


async def test_a_leader_hands_over_and_can_remove_itself(group: Group) -> None:
    await group.grow(3)
    leader = await group.leader()
    target = next(host for host in group.hosts if host is not leader)
    await leader.node.transfer_leadership(target.raft_id)
    assert (await group.leader()) is target
    await target.node.remove(target.raft_id)
    await target.stop()
    successor = await group.leader()
    await successor.node.propose(b"a=1")
    assert target.raft_id not in successor.node.status().members


async def test_leadership_changes_are_watched_in_order(group: Group) -> None:
    await group.grow(1)
    (founder,) = group.hosts
    seen = []
    async for change in founder.node.watch_leadership():
        seen.append(change)
        if change.is_leader:
            break
    assert seen[-1].leader_id == founder.raft_id
    assert seen[-1].leader_addr == founder.addr
    assert [change.term for change in seen] == sorted(change.term for change in seen)


async def _say(host: Host, caller: object, message: Heartbeat) -> None:
    channel = caller.channel(host.addr, CHANNEL_OPTIONS)  # type: ignore[attr-defined]
    try:
        await channel.stream_unary(MESSAGES.path)(iter([MESSAGES.encode(Envelope(messages=(message,)))]))
    finally:
        await channel.close()


async def test_strangers_and_messages_for_others_are_refused(group: Group) -> None:
    await group.grow(1)
    (founder,) = group.hosts
    manager, worker = group.authority.issue("m"), group.authority.issue("w", "swarm-worker")
    poison = Heartbeat(to=1, sender=9, term=99, commit=0)
    with pytest.raises(Exception, match=Forbidden.__name__):
        await _say(founder, worker, poison)
    with pytest.raises(Exception, match=NotFound.__name__):
        await _say(founder, manager, Heartbeat(to=2, sender=9, term=99, commit=0))
    founder.transport._allow = lambda peer, raft_id: (peer.node_id, raft_id) == ("node-2", 2)
    with pytest.raises(Exception, match=Forbidden.__name__):
        await _say(founder, manager, poison)
    assert founder.node.status().term < 99


async def test_a_log_of_another_member_is_refused(group: Group) -> None:
    await group.grow(1)
    (founder,) = group.hosts
    await founder.stop()
    impostor = group.host(2)
    impostor.path = founder.path
    with pytest.raises(Conflict, match="belongs to member 1"):
        await impostor.start()


async def test_a_failing_disk_ends_the_member_and_its_callers_are_told(group: Group) -> None:
    await group.grow(1)
    (founder,) = group.hosts
    assert isinstance(founder.node._storage, SqliteStorage)
    founder.node._storage._db.execute(
        "CREATE TRIGGER full BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with pytest.raises(Unavailable):
        await founder.node.propose(b"a=1")
    with pytest.raises(sqlite3.DatabaseError, match="full"):
        await founder.running
    with pytest.raises(Unavailable, match="not running"):
        await founder.node.propose(b"a=2")
    assert founder.machine.values == {}
    await founder.server.stop(None)


async def test_a_broken_invariant_ends_the_member(group: Group) -> None:
    await group.grow(1)
    (founder,) = group.hosts
    forged = Append(
        to=1, sender=9, term=99, prev_index=2, prev_term=2, commit=99, entries=(Entry(1, 5, EntryKind.NOOP),)
    )
    with pytest.raises(AssertionError):
        founder.node.receive(forged)
    with pytest.raises(AssertionError):
        await founder.running
    await founder.server.stop(None)


async def test_a_member_that_moved_is_found_at_its_new_address(group: Group) -> None:
    await group.grow(3)
    leader = await group.leader()
    mover = next(host for host in group.hosts if host is not leader)
    await mover.stop()
    mover.port = 0
    await mover.start()
    await leader.node.update_addr(mover.raft_id, mover.addr)
    await leader.node.propose(b"a=1")
    await group.agree("a", "1")
    assert leader.node.status().members[mover.raft_id].addr == mover.addr


async def test_a_leader_whose_disk_hangs_lets_another_lead(group: Group) -> None:
    await group.grow(3)
    leader = await group.leader()
    released = threading.Event()
    storage = leader.node._storage
    save = storage.save

    def hang(*arguments: Any) -> None:
        released.wait(20)
        save(*arguments)

    storage.save = hang  # type: ignore[assignment, method-assign]
    proposal = asyncio.get_running_loop().create_task(leader.node.propose(b"a=1"))
    try:
        async with asyncio.timeout(10):
            while (await group.leader()) is leader:
                await asyncio.sleep(0.01)
        await (await group.leader()).node.propose(b"b=1")
    finally:
        released.set()
    with contextlib.suppress(Unavailable):
        await proposal
    await group.agree("b", "1")
    await group.agree("a", "1")
