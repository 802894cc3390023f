"""A swarm of simulated nodes: a real manager, real agents over gRPC with mutual TLS, engines of dictionaries.

The agents live in processes of their own, so that what is told of the manager is the manager's. Their records lie in
memory, for a thousand nodes have a thousand disks.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from api.server.app import App
from api.server.routers import task
from api.types.objects import Node, NodeState, TaskState
from benchmarks.results import keep
from lab.paths import ROOT
from lab.unixhttp import ask
from manager.store.store import Store
from tests.unit.manager.swarm import Swarm, service_spec

PROCESSES = 2
"""For the agents."""
HEARTBEAT_NS = 5_000_000_000
SHARED_MEMORY = Path("/dev/shm")
READY_S, RUNNING_S = 600, 900
LISTS = 3


def run(nodes: int, tasks: int, services: int, rest_s: float) -> None:
    """Until every task's RUNNING is back in the store, then at rest; print and keep the figures."""
    place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="simulated-", dir=place) as directory:
        figures = asyncio.run(_measured(Path(directory), nodes, tasks, services, rest_s))
    for name, value in figures.items():
        print(f"{name:>24}: {value}")
    print(keep("simulated", {"nodes": nodes, "tasks": tasks, "services": services, **figures}))


async def _measured(directory: Path, nodes: int, tasks: int, services: int, rest_s: float) -> dict[str, object]:
    async with Swarm(directory, heartbeat_ns=HEARTBEAT_NS) as swarm, contextlib.AsyncExitStack() as stack:
        store = swarm.control_store()
        began, cpu = time.perf_counter(), time.process_time()
        token = (await swarm.first.control().get_cluster()).join_tokens.worker
        for number in range(PROCESSES):
            share = (nodes - 1) * (number + 1) // PROCESSES - (nodes - 1) * number // PROCESSES
            await stack.enter_async_context(_agents(swarm.first.addr, token, directory / f"p{number}", share))
        await _until(lambda: _ready(store) == nodes, READY_S)
        joined, join_cpu = time.perf_counter() - began, time.process_time() - cpu

        began, cpu = time.perf_counter(), time.process_time()
        for number in range(services):
            share = tasks * (number + 1) // services - tasks * number // services
            await swarm.first.control().create_service(service_spec(f"s{number}", share))
        await _until(lambda: _running(store) == tasks, RUNNING_S)
        running, running_cpu = time.perf_counter() - began, time.process_time() - cpu

        cpu = time.process_time()
        await asyncio.sleep(rest_s)
        at_rest = (time.process_time() - cpu) / rest_s
        return {
            "join_s": round(joined, 2),
            "join_manager_cpu_s": round(join_cpu, 2),
            "running_s": round(running, 2),
            "running_manager_cpu_s": round(running_cpu, 2),
            "rest_manager_cpu_percent": round(at_rest * 100, 1),
            "manager_rss_mb": _rss_mb(),
            "list_tasks_s": await _list_tasks(swarm, directory / "api.sock", tasks),
        }


@contextlib.asynccontextmanager
async def _agents(addr: str, token: str, directory: Path, count: int) -> AsyncIterator[None]:
    """A process with so many nodes, for as long as the block lasts; it is there before they have joined."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.simulated_nodes", addr, token, str(directory), str(count)),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
    )
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def _list_tasks(swarm: Swarm, path: Path, tasks: int) -> float:
    """Seconds of `GET /tasks` of all, over HTTP: the best of a few."""
    app = App(list(task.routes(swarm.first)), server_name="benchmark")
    app.add_listener(await asyncio.get_running_loop().create_unix_server(app.protocol_factory(), str(path)))
    try:
        taken = []
        for _ in range(LISTS):
            began = time.perf_counter()
            answer = await asyncio.to_thread(ask, path, "GET", "/v1.24/tasks")
            taken.append(time.perf_counter() - began)
            assert len(answer.value) == tasks
            gc.collect()
    finally:
        await app.close()
    return round(min(taken), 2)


async def _until(condition: Callable[[], bool], timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.1)


def _ready(store: Store) -> int:
    return sum(node.status.state is NodeState.READY for node in store.view().all(Node))


def _running(store: Store) -> int:
    return len(store.view().tasks_in_state(TaskState.RUNNING))


def _rss_mb() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024
