"""Nodes of the simulated swarm: `python -m benchmarks.simulated_nodes ADDR TOKEN DIRECTORY COUNT`, until stdin ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
from pathlib import Path

import grpc

from api.types.objects import NodeDescription
from base.clock import NS, SystemClock
from base.supervise import TaskOwner
from ca.client import join
from ca.identity import Identity
from ca.tls import channel
from tests.unit.exec.engine import FakeEngine
from worker.agent.agent import Agent

CLOCK = SystemClock()
AT_ONCE = 8
"""Joins under way."""


async def serve(addr: str, token: str, directory: Path, count: int) -> None:
    """Join them all, a few at a time, and be them until nobody needs them."""
    owner = TaskOwner("nodes")
    gate = asyncio.Semaphore(AT_ONCE)

    async def begin(number: int) -> None:
        async with gate:
            identity = await join(addr, token, CLOCK)
        owner.spawn(agent(addr, identity, directory / str(number)).run(), name=f"agent {number}")

    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(begin(number))
    await over
    await owner.close()


def agent(addr: str, identity: Identity, directory: Path) -> Agent:
    """A node with an engine of dictionaries."""
    directory.mkdir(parents=True)

    def connect(to: str) -> grpc.aio.Channel:
        return channel(to, identity, identity.root_pem)

    return Agent(
        node_id=identity.node_id,
        description=lambda: NodeDescription(hostname=identity.node_id, nano_cpus=64 * NS, memory_bytes=2**38),
        managers=[addr],
        connect=connect,
        engine=FakeEngine(),
        directory=directory,
        clock=CLOCK,
        rng=random.Random(identity.node_id),
    )


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
