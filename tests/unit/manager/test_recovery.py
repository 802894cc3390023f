"""Managers that move, lose their majority, or change their settings and keys. Engines are made up; the rest is real."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from api import errors
from api.rpc.client import call
from api.rpc.swarm_methods import CONTROL_CALL
from api.types.dispatch import ForwardRequest
from api.types.objects import Node
from api.types.swarm import CAConfig
from api.types.swarm import RaftConfig as Wished
from base.clock import NS, Clock
from ca import certificates
from ca.client import renew
from ca.tls import channel
from manager import operations as ops
from manager.founding import own_identity
from manager.manager import raft_keys
from manager.raftkeys import FILE, ROTATE_AGE_NS, RaftKeys
from manager.recovery import found_anew
from manager.settings import raft_settings
from raft.contract import RaftConfig
from raft.core.membership import decode
from raft.core.messages import EntryKind, Message
from raft.node import RaftNode
from tests.unit.manager.swarm import CLOCK, Host, Swarm, free_addr, service_spec

replace = msgspec.structs.replace


async def test_the_last_manager_of_three_begins_anew_with_everything_and_takes_new_ones(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        first, second, third = swarm.first, await swarm.add_manager("m2"), await swarm.add_manager("m3")
        await first.control().create_service(service_spec(replicas=2))
        await swarm.until_running("web", 2)
        for host in (second, third, first):
            await host.kill()
        found_anew(first.directory, first.addr, CLOCK)
        await first.start_manager()
        first.start_agent()
        nodes = await first.control().list_nodes({})
        assert {node.id for node in nodes} == {host.identity.node_id for host in swarm.hosts.values()}
        await swarm.until_running("web", 2)

        async def others_are_workers() -> bool:
            nodes = await first.control().list_nodes({"role": ["worker"]})
            return len(nodes) == 2 and all(node.manager_status is None for node in nodes)

        await swarm.until(others_are_workers)
        assert len(first.control_raft().status().members) == 1
        fourth = await swarm.add_manager("m4")
        assert (await fourth.control().get_service("web")).spec.name == "web"
        assert second.identity.node_id not in {node_id for node_id, _ in managers_of(first)}


def managers_of(host: Host) -> list[tuple[str, str]]:
    assert host.manager is not None
    return host.manager.managers()


async def test_a_manager_that_moved_says_so_and_is_reached_there(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        second, third = await swarm.add_manager("m2"), await swarm.add_manager("m3")
        for host in (third, swarm.first):  # a follower, then whoever led
            await host.kill()
            host.addr = free_addr()
            await host.start_manager()
            host.start_agent()

            def known(host: Host = host) -> bool:
                members = second.control_raft().status().members
                return dict(managers_of(second)).get(host.identity.node_id) == host.addr and any(
                    member.addr == host.addr for member in members.values()
                )

            await swarm.until(known)
            await host.control().list_nodes({})
        nodes = await third.control().list_nodes({})
        assert all(node.manager_status and node.manager_status.reachability == "reachable" for node in nodes)


async def test_a_demoted_managers_certificate_is_no_managers_any_more(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        second = await swarm.add_manager("m2")
        old = second.identity
        request = ForwardRequest(method="GetMembers", arguments=msgspec.msgpack.encode(ops.GetMembers()))
        connection = channel(swarm.first.addr, old, old.root_pem)
        await call(connection, CONTROL_CALL, request, timeout=5)
        node = await swarm.first.control().get_node(old.node_id)
        spec = replace(node.spec, role="worker")
        await swarm.first.control().update_node(node.id, spec, node.meta.version)

        async def let_go() -> bool:
            return (await swarm.first.control().get_node(old.node_id)).manager_status is None

        await swarm.until(let_go)
        await asyncio.sleep(max(0.0, 1.05 - (CLOCK.now_ns() - old.issued_ns) / NS))  # certificates count whole seconds
        assert (await renew(swarm.first.addr, old)).role == "worker"
        with pytest.raises(errors.Forbidden, match="no manager any more"):
            await call(connection, CONTROL_CALL, request, timeout=5)
        assert (await renew(swarm.first.addr, old)).role == "worker", "it may fetch what it lost"
        await connection.close()


async def test_managers_whose_certificates_have_all_expired_come_back_by_the_root_key(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        first = swarm.first
        cluster = await first.control().get_cluster()
        await first.kill()
        first.identity = own_identity(
            cluster, first.identity.node_id, CLOCK.now_ns() - cluster.spec.ca_config.node_cert_expiry - NS
        )
        assert first.identity.expires_ns < CLOCK.now_ns()
        manager = await first.start_manager()
        with pytest.raises(errors.ShoalError):
            await renew(first.addr, first.identity, CLOCK.now_ns())
        await swarm.until(lambda: manager.store.view().cluster() is not None)
        first.identity = manager.renew_own()
        manager.set_identity(first.identity)
        assert (await renew(first.addr, first.identity)).role == "manager"
        await swarm.add_worker("w1")


async def test_calls_to_the_leader_go_on_when_the_certificate_they_began_with_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "LEAF_LIFE_MIN_NS", NS)
    async with Swarm(tmp_path) as swarm:
        second = await swarm.add_manager("m2")
        assert second.manager is not None
        cluster = await second.control().get_cluster()
        brief = replace(cluster, spec=replace(cluster.spec, ca_config=CAConfig(node_cert_expiry=2 * NS)))
        second.manager.set_identity(own_identity(brief, second.identity.node_id, CLOCK.now_ns()))
        await second.control().create_service(service_spec("one"))
        second.manager.set_identity(own_identity(cluster, second.identity.node_id, CLOCK.now_ns()))
        await asyncio.sleep(3.1)  # certificates count whole seconds
        await second.control().create_service(service_spec("two"))


async def test_of_two_managers_one_may_move_though_neither_can_lead_without_the_other(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        second = await swarm.add_manager("m2")
        for host in (second, swarm.first):
            await host.kill()
            host.addr = free_addr()
            await host.start_manager()
            host.start_agent()
            # The next one may move only when both know where this one is, which takes a leader.
            await swarm.until(lambda host=host: all(_knows(other, host) for other in (swarm.first, second)), timeout=60)
            await host.control().list_nodes({})


def _knows(host: Host, other: Host) -> bool:
    assert host.manager is not None
    node = host.manager.store.view().get(Node, other.identity.node_id)
    return node is not None and node.manager_status is not None and node.manager_status.addr == other.addr


async def test_a_manager_that_moves_before_it_heard_of_its_vote_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own log it is a learner, which never campaigns; without its vote the other can't lead."""
    take = RaftNode.receive

    def without_its_vote(node: RaftNode, message: Message) -> None:
        changes = (entry for entry in getattr(message, "entries", ()) if entry.kind is EntryKind.CHANGE)
        if not any(node.raft_id in decode(entry.data).voters for entry in changes):
            take(node, message)

    monkeypatch.setattr(RaftNode, "receive", without_its_vote)
    async with Swarm(tmp_path) as swarm:
        second = await swarm.add_manager("m2", voter=False)
        raft = swarm.first.control_raft()
        await swarm.until(lambda: not any(member.learner for member in raft.status().members.values()))
        assert second.control_raft().status().members[second.control_raft().raft_id].learner
        await second.kill()
        monkeypatch.undo()
        second.addr = free_addr()
        await second.start_manager()
        await swarm.until(lambda: all(_knows(other, second) for other in (swarm.first, second)))
        await second.control().list_nodes({})


async def test_a_lone_manager_that_moved_needs_nobody(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        first = swarm.first
        await first.kill()
        first.addr = free_addr()
        manager = await first.start_manager()

        def told() -> bool:
            node = manager.store.view().get(Node, first.identity.node_id)
            return node is not None and node.manager_status is not None and node.manager_status.addr == first.addr

        await swarm.until(told)


async def test_raft_settings_of_the_swarm_take_effect_while_it_runs(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        second = await swarm.add_manager("m2")
        cluster = await second.control().get_cluster()
        spec = replace(cluster.spec, raft=replace(cluster.spec.raft, snapshot_interval=5, election_tick=6))
        await second.control().update_cluster(spec, cluster.meta.version)
        raft = second.control_raft()
        await swarm.until(lambda: raft._core.limits.election_tick == 20)
        await second.control().create_service(service_spec(replicas=3))
        await swarm.until(lambda: raft._core.log.snapshot.index > cluster.meta.version)


def test_settings_are_in_thirds_of_seconds_and_leave_three_heartbeats() -> None:
    present = RaftConfig()
    default = Wished(snapshot_interval=10_000, log_entries_for_slow_followers=500, heartbeat_tick=1, election_tick=3)
    assert raft_settings(default, present) == present
    assert raft_settings(Wished(), present) == present
    slow = raft_settings(Wished(heartbeat_tick=5, election_tick=6, keep_old_snapshots=2), present)
    assert (slow.limits.heartbeat_tick, slow.limits.election_tick, slow.keep_old_snapshots) == (5, 20, 2)
    assert raft_settings(Wished(heartbeat_tick=9, election_tick=10), present).limits.election_tick == 33
    assert raft_settings(Wished(heartbeat_tick=9, election_tick=8), present).limits.election_tick == 27


@dataclass
class Later(Clock):
    now: int = 10**18

    def now_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / NS


def test_a_key_is_made_once_rotated_when_old_and_forgotten_when_unused(tmp_path: Path) -> None:
    clock = Later()
    keys = RaftKeys(tmp_path, clock, log_exists=False)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    sealed = keys.ring.seal(b"x", b"p")
    assert RaftKeys(tmp_path, clock, log_exists=True).ring.open(sealed, b"p") == b"x"
    assert not keys.rotate_if_old()
    clock.now += ROTATE_AGE_NS + NS
    assert keys.rotate_if_old()
    newer = keys.ring.seal(b"y", b"p")
    again = RaftKeys(tmp_path, clock, log_exists=True)
    assert (again.ring.open(sealed, b"p"), again.ring.open(newer, b"p")) == (b"x", b"y")
    again.prune()
    last = RaftKeys(tmp_path, clock, log_exists=True)
    assert last.ring.open(sealed, b"p") == b"x"
    unused = RaftKeys(tmp_path, clock, log_exists=True)
    unused.ring.open(newer, b"p")
    unused.prune()
    with pytest.raises(errors.Internal, match="does not have"):
        RaftKeys(tmp_path, clock, log_exists=True).ring.open(sealed, b"p")


def test_a_log_without_its_key_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "raft.db").write_bytes(os.urandom(10))
    with pytest.raises(errors.Unavailable, match="key"):
        raft_keys(tmp_path, CLOCK)
    assert not (tmp_path / "certificates").exists()


async def test_a_joining_manager_asks_again_when_its_connection_breaks(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        host, _, port = swarm.first.addr.rpartition(":")
        broken = 0

        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """The first connections break in their handshake."""
            nonlocal broken
            first = await reader.read(1)
            if broken < 2 or not first:
                broken += 1
                writer.close()
                return
            there = await asyncio.open_connection(host, int(port))
            there[1].write(first)
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

        server = await asyncio.start_server(meet, "127.0.0.1", 0)
        second = await swarm._joined("m2", "manager")
        await second.start_manager(join_addrs=(f"127.0.0.1:{server.sockets[0].getsockname()[1]}",))
        assert broken == 2
        await swarm.until(lambda: len(managers_of(swarm.first)) == 2)
        server.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
