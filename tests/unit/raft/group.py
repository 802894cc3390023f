"""Real members for tests: SQLite in a temporary folder, gRPC with mutual TLS over loopback, a dictionary as state."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from random import Random
from typing import Any

import grpc
import msgspec

from api.rpc.client import CHANNEL_OPTIONS, SERVER_OPTIONS
from api.rpc.server import chain_only, service
from raft.core.limits import Limits
from raft.node import RaftConfig, RaftNode
from raft.storage.sqlite import SqliteStorage
from raft.transport.grpc import GrpcTransport
from tests.unit.raft.certificates import Authority, Identity

CONFIG = RaftConfig(tick_s=0.02, limits=Limits(), snapshot_interval=50, log_entries_for_slow_followers=5)


async def handlers_ended() -> None:
    """grpc's server may return from `stop` a moment before the tasks of its cancelled calls are gone."""
    async with asyncio.timeout(5):
        while any(task.get_name() == "rpc_task" for task in asyncio.all_tasks()):
            await asyncio.sleep(0.001)


class Dictionary:
    """`key=value` entries; the result of each is the key's value before."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.restored = 0

    def apply(self, index: int, data: bytes) -> Any:
        key, _, value = data.decode().partition("=")
        before = self.values.get(key)
        self.values[key] = value
        return before

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self.values)

    def restore(self, index: int, data: bytes) -> None:
        self.restored += 1
        self.values = msgspec.msgpack.decode(data, type=dict[str, str])


class Host:
    """One member with its server; `start` after `stop` comes back from the disk with the same address."""

    def __init__(self, raft_id: int, folder: Path, identity: Identity) -> None:
        self.raft_id = raft_id
        self.path = folder / f"raft-{raft_id}.db"
        self.identity = identity
        self.port = 0
        self.addr = ""

    async def start(self, *, found: bool = False) -> None:
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        self.port = self.server.add_secure_port(f"127.0.0.1:{self.port}", self.identity.server())
        self.addr = f"127.0.0.1:{self.port}"
        self.transport = GrpcTransport(
            channel_factory=lambda addr: self.identity.channel(addr, CHANNEL_OPTIONS), own_addr=self.addr
        )
        self.server.add_generic_rpc_handlers((service(self.transport.handlers(), verify=chain_only),))
        await self.server.start()
        self.machine = Dictionary()
        self.node = RaftNode(
            raft_id=self.raft_id,
            storage=SqliteStorage(self.path),
            transport=self.transport,
            machine=self.machine,
            rng=Random(),
            config=CONFIG,
            found_at=self.addr if found else "",
        )
        ready = asyncio.Event()
        self.running = asyncio.get_running_loop().create_task(self.node.run(ready))
        waiting = asyncio.get_running_loop().create_task(ready.wait())
        await asyncio.wait([self.running, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self.running.done():
            await self.server.stop(None)
            self.running.result()

    async def stop(self) -> None:
        await self.server.stop(None)
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.running


class Group:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.hosts: list[Host] = []

    def host(self, raft_id: int) -> Host:
        host = Host(raft_id, self.folder, self.authority.issue(f"node-{raft_id}"))
        self.hosts.append(host)
        return host

    async def grow(self, size: int) -> None:
        founder = self.host(1)
        await founder.start(found=True)
        await self.leader()
        for raft_id in range(2, size + 1):
            await self.join(raft_id)

    async def join(self, raft_id: int) -> Host:
        host = self.host(raft_id)
        await host.start()
        leader = await self.leader()
        await leader.node.add_learner(raft_id, host.addr)
        await leader.node.promote(raft_id)
        return host

    def up(self) -> list[Host]:
        return [host for host in self.hosts if not host.running.done()]

    async def leader(self) -> Host:
        """Wait for a member that leads and says so."""
        async with asyncio.timeout(20):
            while True:
                for host in self.up():
                    if host.node.status().is_leader:
                        return host
                await asyncio.sleep(0.01)

    async def agree(self, key: str, value: str, hosts: list[Host] | None = None) -> None:
        """Wait until members hold a value."""
        async with asyncio.timeout(20):
            for host in hosts or self.up():
                while host.machine.values.get(key) != value:
                    await asyncio.sleep(0.01)

    async def close(self) -> None:
        for host in self.up():
            await host.stop()
        await handlers_ended()
