"""A whole swarm in one process: real managers and agents, gRPC with mutual TLS on loopback, engines of dictionaries."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from api import errors
from api.server.backends import NOT_A_MANAGER, ControlBackend
from api.types.cluster import SwarmInit, SwarmJoin
from api.types.objects import NodeDescription, NodeState, Task, TaskState
from api.types.swarm import (
    ContainerSpec,
    DispatcherConfig,
    ReplicatedService,
    ServiceMode,
    ServiceSpec,
    SwarmSpec,
    TaskSpec,
)
from base.clock import NS, SystemClock
from base.supervise import TaskOwner, cancel_and_wait
from ca.client import join
from ca.identity import Identity
from ca.tls import channel
from manager.founding import found
from manager.manager import Manager, ManagerConfig
from manager.store.store import Store
from raft.node import RaftNode
from tests.unit.exec.engine import FakeEngine
from worker.agent.agent import Agent

CLOCK = SystemClock()


def free_addr() -> str:
    """A loopback address whose port was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def service_spec(name: str = "web", replicas: int = 1, **container: Any) -> ServiceSpec:
    return ServiceSpec(
        name=name,
        task_template=TaskSpec(container_spec=ContainerSpec(**{"image": "busybox", **container})),
        mode=ServiceMode(replicated=ReplicatedService(replicas=replicas)),
    )


class Host:
    """One node: an agent with a fake engine, and a manager if it is one. Satisfies `ClusterBackend`."""

    def __init__(self, swarm: Swarm, name: str, identity: Identity) -> None:
        self.swarm, self.name, self.identity = swarm, name, identity
        self.directory = swarm.directory / name
        self.engine = FakeEngine()
        self.description = NodeDescription(hostname=name, nano_cpus=2 * NS, memory_bytes=2**30)
        self.manager: Manager | None = None
        self.addr = ""
        self.heard: list[str] = []
        """The roles that the dispatcher told this node to have."""
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def start_manager(self, **arguments: Any) -> Manager:
        """Founding, joining or restarting, as the arguments say; returns when it is ready."""
        self.addr = self.addr or free_addr()
        self.directory.mkdir(exist_ok=True)
        config = ManagerConfig(self.directory, self.addr, self.addr)
        self.manager = Manager(config, self.identity, CLOCK, **arguments)
        ready = asyncio.Event()
        self._tasks["manager"] = self.swarm.owner.spawn(self.manager.run(ready), name=f"{self.name}/manager")
        async with asyncio.timeout(20):
            await ready.wait()
        return self.manager

    def start_agent(self) -> None:
        (self.directory / "agent").mkdir(parents=True, exist_ok=True)
        agent = Agent(
            node_id=self.identity.node_id,
            description=lambda: self.description,
            managers=[self.addr or self.swarm.first.addr],
            connect=self._connect,
            engine=self.engine,
            directory=self.directory / "agent",
            clock=CLOCK,
            rng=random.Random(self.name),
            heard=lambda message: self.heard.append(message.role),
        )
        self._tasks["agent"] = self.swarm.owner.spawn(agent.run(), name=f"{self.name}/agent")

    def _connect(self, addr: str) -> grpc.aio.Channel:
        return channel(addr, self.identity, self.identity.root_pem)

    async def stop_manager(self) -> None:
        """As a node does that was demoted."""
        await cancel_and_wait(self._tasks.pop("manager"))
        self.manager = None

    def control_raft(self) -> RaftNode:
        assert self.manager is not None
        return self.manager.raft

    async def kill(self) -> None:
        """The host is gone at once; its containers' records stay for a later start."""
        for task in self._tasks.values():
            await cancel_and_wait(task)
        self._tasks.clear()
        self.manager = None

    # ClusterBackend

    def control(self) -> ControlBackend:
        if self.manager is None:
            raise errors.NotInSwarm(NOT_A_MANAGER)
        return self.manager.control

    async def init(self, request: SwarmInit) -> str:
        raise errors.NotInSwarm("this node is part of a swarm")

    async def join(self, request: SwarmJoin) -> None:
        raise errors.NotInSwarm("this node is part of a swarm")

    async def leave(self, *, force: bool) -> None:
        raise errors.NotSupported("not in this test")


class Swarm:
    """`async with Swarm(tmp_path) as swarm`."""

    def __init__(self, directory: Path, heartbeat_ns: int = NS // 2) -> None:
        self.directory = directory
        self.owner = TaskOwner("swarm")
        self.hosts: dict[str, Host] = {}
        self._spec = SwarmSpec(dispatcher=DispatcherConfig(heartbeat_period=heartbeat_ns))

    @property
    def first(self) -> Host:
        return next(iter(self.hosts.values()))

    async def __aenter__(self) -> Swarm:
        addr = free_addr()
        founding = found(self._spec, addr, CLOCK)
        host = self.hosts["m1"] = Host(self, "m1", founding.identity)
        host.addr = addr
        await host.start_manager(founding=founding)
        host.start_agent()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.owner.close()

    async def add_manager(self, name: str, *, voter: bool = True) -> Host:
        """A manager that is Ready and has its vote, or without `voter` one that just joined, with no agent yet."""
        host = await self._joined(name, "manager")
        await host.start_manager(join_addrs=(self.first.addr,))
        if not voter:
            return host
        host.start_agent()
        await self.until_state(host, NodeState.READY)
        await self.until(lambda: not any(member.learner for member in host.control_raft().status().members.values()))
        return host

    async def add_worker(self, name: str, description: NodeDescription | None = None) -> Host:
        host = await self._joined(name, "worker")
        host.description = description or host.description
        host.start_agent()
        await self.until_state(host, NodeState.READY)
        return host

    async def join_worker(self, name: str) -> Host:
        """As `add_worker`, without waiting for it to be Ready."""
        host = await self._joined(name, "worker")
        host.start_agent()
        return host

    def control_store(self) -> Store:
        """The first manager's store."""
        assert self.first.manager is not None
        return self.first.manager.store

    async def until_state(self, host: Host, state: NodeState, through: Host | None = None) -> None:
        """Wait until the managers say that of the host."""

        async def is_so() -> bool:
            return (await (through or self.first).control().get_node(host.identity.node_id)).status.state is state

        await self.until(is_so)

    async def _joined(self, name: str, role: str) -> Host:
        tokens = (await self.first.control().get_cluster()).join_tokens
        identity = await join(self.first.addr, getattr(tokens, role), CLOCK)
        host = self.hosts[name] = Host(self, name, identity)
        host.directory.mkdir()
        return host

    async def until(self, condition: Callable[[], Any], timeout: float = 20) -> None:
        """Poll until `condition` (a function or coroutine function) is true."""
        async with asyncio.timeout(timeout):
            while True:
                value = condition()
                if asyncio.iscoroutine(value):
                    value = await value
                if value:
                    return
                await asyncio.sleep(0.02)

    async def until_left(self, host: Host, through: Host | None = None) -> None:
        """Wait until no task is meant to run on the host."""

        async def is_so() -> bool:
            tasks = await (through or self.first).control().list_tasks({"node": [host.identity.node_id]})
            return all(task.desired_state > TaskState.RUNNING for task in tasks)

        await self.until(is_so)

    async def running(self, service: str, through: Host | None = None) -> list[Task]:
        tasks = await (through or self.first).control().list_tasks({"service": [service]})
        return [
            task for task in tasks if task.status.state is TaskState.RUNNING and task.desired_state is TaskState.RUNNING
        ]

    async def until_running(self, service: str, count: int, through: Host | None = None) -> list[Task]:
        """Wait until so many tasks of the service run, and no more are on the way."""
        found_tasks: list[Task] = []

        async def settled() -> bool:
            nonlocal found_tasks
            found_tasks = await self.running(service, through)
            tasks = await (through or self.first).control().list_tasks({"service": [service]})
            wanted = [task for task in tasks if task.desired_state <= TaskState.RUNNING]
            return len(found_tasks) == len(wanted) == count

        await self.until(settled)
        return found_tasks
