"""A service on simulated nodes: a real manager, real agents over gRPC with mutual TLS, engines of dictionaries."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from api.types.objects import Node, NodeState
from benchmarks.results import keep
from tests.unit.manager.swarm import Swarm, service_spec


def run(nodes: int, tasks: int) -> None:
    """Until every task's RUNNING is back in the store; print and keep the figures."""
    with tempfile.TemporaryDirectory(prefix="simulated-") as directory:
        figures = asyncio.run(_measured(Path(directory), nodes, tasks))
    print(
        f"{tasks} tasks on {nodes} nodes: {figures['running_s']} s of wall, {figures['cpu_s']} s of CPU, all processes"
    )
    print(keep("simulated", {"nodes": nodes, "tasks": tasks, **figures}))


async def _measured(directory: Path, nodes: int, tasks: int) -> dict[str, object]:
    async with Swarm(directory, heartbeat_ns=5_000_000_000) as swarm:
        began = time.perf_counter()
        for number in range(1, nodes):
            await swarm.join_worker(f"w{number}")
        store = swarm.control_store()
        await swarm.until(lambda: _ready(store.view().all(Node)) == nodes, timeout=120)
        joined = time.perf_counter() - began
        began, cpu = time.perf_counter(), time.process_time()
        await swarm.first.control().create_service(service_spec("web", tasks))
        await swarm.until_running("web", tasks)
        return {
            "join_s": round(joined, 2),
            "running_s": round(time.perf_counter() - began, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
        }


def _ready(nodes: list[Node]) -> int:
    return sum(node.status.state is NodeState.READY for node in nodes)
