"""How long the scheduler takes to place a backlog, with the store and without Raft, as swarmkit's benchmark does."""

from __future__ import annotations

import asyncio
import time

from api.types.objects import Node, NodeDescription, NodeState, NodeStatus, Task, TaskState, TaskStatus
from api.types.swarm import ContainerSpec, NodeSpec, TaskSpec
from base.clock import NS, SystemClock
from benchmarks.results import keep
from manager.scheduler.loop import Scheduler
from manager.store.memory import Transaction
from manager.store.proposer import MemoryProposer
from manager.store.store import Batch, Store
from manager.store.tables import encode

SWARMKIT_S = {1_000: 0.115, 10_000: 0.83, 100_000: 10.6}
"""Seconds on this kind of machine, 1,000 nodes."""


def filled(nodes: int, tasks: int) -> Store:
    """A store whose tasks all wait to be placed."""
    store, proposer = Store(SystemClock()), MemoryProposer()
    store.bind(proposer)
    proposer.apply = store.apply
    batch = Batch(store.view(), 1)
    for number in range(nodes):
        batch.put(
            Node(
                id=f"node{number}",
                spec=NodeSpec(role="worker", availability="active"),
                status=NodeStatus(state=NodeState.READY),
                description=NodeDescription(hostname=f"host{number}", nano_cpus=64 * NS, memory_bytes=2**38),
            )
        )
    # Tasks begin their life in NEW, and only the allocator may move them: here both steps are made for it.
    made = [
        Task(id=f"task{number}", service_id="service", service_name="web", slot=number + 1, spec=SPEC)
        for number in range(tasks)
    ]
    store.apply(1, encode(Transaction(component="dispatcher", time=1, actions=batch.actions)))
    for component, state in (("orchestrator", TaskState.NEW), ("allocator", TaskState.PENDING)):
        batch = Batch(store.view(), 1)
        for task in made if state is TaskState.NEW else store.view().all(Task):
            batch.put(_in_state(task, state))
        proposer.index += 1
        store.apply(1 + proposer.index, encode(Transaction(component=component, time=1, actions=batch.actions)))
    proposer.index += 1
    return store


SPEC = TaskSpec(container_spec=ContainerSpec(image="busybox", args=["sleep", "1d"]))


def _in_state(task: Task, state: TaskState) -> Task:
    return Task(
        id=task.id, meta=task.meta, service_id=task.service_id, service_name=task.service_name, slot=task.slot,
        spec=task.spec, status=TaskStatus(state=state),
    )  # fmt: skip


def run(nodes: int, sizes: list[int]) -> None:
    """Place each backlog once; print and keep the figures."""
    figures: dict[str, object] = {"nodes": nodes}
    for size in sizes:
        store = filled(nodes, size)
        begin = time.perf_counter()
        asyncio.run(Scheduler(store).schedule())
        seconds = time.perf_counter() - begin
        assert len(store.view().tasks_in_state(TaskState.ASSIGNED)) == size
        beside = f", swarmkit {SWARMKIT_S[size]:g} s" if nodes == 1_000 and size in SWARMKIT_S else ""
        print(f"{size:>8} tasks on {nodes} nodes: {seconds:.3f} s{beside}")
        figures[str(size)] = round(seconds, 4)
    print(keep("scheduler", {"seconds": figures}))
