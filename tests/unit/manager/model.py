"""The manager's loops over one store, driven by hand: every step may be the last of this leader, and time is turned.

Nodes are simulated: they take up what is assigned to them, run it, and lose it as a test orders. The loops are the real
ones; a new leader gets new ones, with nothing remembered.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from api.errors import ShoalError, Unavailable
from api.types.dispatch import TaskStatusUpdate
from api.types.objects import Cluster, Node, NodeState, NodeStatus, Service, Task, TaskState, TaskStatus
from base.supervise import TaskOwner
from manager.allocator.loop import Allocator
from manager.dispatcher.statuses import StatusWriter
from manager.orchestrator.loop import Orchestrator
from manager.orchestrator.reaper import Reaper
from manager.orchestrator.rebalancer import Rebalancer
from manager.scheduler.loop import Scheduler
from manager.store.proposer import MemoryApplied, MemoryProposer
from manager.store.store import Batch, Store
from manager.store.transitions import Component
from tests.unit.manager import make

S = TaskState
_NEXT = {S.ASSIGNED: S.ACCEPTED, S.ACCEPTED: S.PREPARING, S.PREPARING: S.READY, S.READY: S.STARTING,
         S.STARTING: S.RUNNING}  # fmt: skip


class Interrupted(Unavailable):
    """The leader is gone after its change was committed."""


class FaultyProposer(MemoryProposer):
    """Commits, and then loses the leader, after as many proposals as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None

    async def propose(self, data: bytes) -> MemoryApplied:
        applied = await super().propose(data)
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                self.left = None
                raise Interrupted("the leader was lost")
        return applied


class Model:
    """A swarm without processes."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.clock = make.Clock()
        self.proposer = FaultyProposer()
        self.store = Store(self.clock)
        self.store.bind(self.proposer)
        self.proposer.apply = self.store.apply
        self.running: dict[str, set[str]] = defaultdict(set)
        """Node id to the ids of tasks whose containers run there."""
        self.cut: set[str] = set()
        """Nodes that no manager can reach: their containers run on."""
        self.image_fails: Callable[[Task], bool] = lambda task: False
        """Tasks that end at once with an error."""
        self.new_leader()

    def new_leader(self) -> None:
        """Loops that know nothing but the store."""
        self.orchestrator, self.reaper = Orchestrator(self.store), Reaper(self.store)
        self.allocator, self.scheduler = Allocator(self.store), Scheduler(self.store)
        self.rebalancer = Rebalancer(self.store)

    async def change(self, change: Callable[[Batch], Any], component: Component = Component.CONTROL_API) -> None:
        try:
            await self.store.update(component, change)
        except Interrupted:  # it is committed all the same
            self.new_leader()

    async def begin(self, nodes: int) -> None:
        await self.change(lambda batch: batch.put(Cluster(id="c")), Component.MANAGER)
        for number in range(nodes):
            await self.change(lambda batch, n=number: batch.put(make.node(f"n{n}")), Component.MANAGER)  # type: ignore[misc]

    # --- what users and faults do -------------------------------------------------------------------------------

    async def put_service(self, service: Service) -> None:
        def change(batch: Batch) -> None:
            known = batch.view.get(Service, service.id)
            if known is None:
                batch.put(service)
            else:
                batch.put(msgspec.structs.replace(known, spec=service.spec, update_status=None))

        await self.change(change)

    async def remove_service(self, service_id: str) -> None:
        await self.change(lambda batch: batch.delete(batch.view.get(Service, service_id)))  # type: ignore[arg-type]

    async def set_node(self, node_id: str, *, state: NodeState | None = None, availability: str = "") -> None:
        def change(batch: Batch) -> None:
            node = batch.view.get(Node, node_id)
            assert node is not None
            status = NodeStatus(state=state) if state is not None else node.status
            spec = msgspec.structs.replace(node.spec, availability=availability or node.spec.availability)
            batch.put(msgspec.structs.replace(node, status=status, spec=spec))

        await self.change(change, Component.DISPATCHER)

    # --- steps --------------------------------------------------------------------------------------------------

    async def loops(self) -> None:
        """One round of every loop, in any order; a lost leader's successor begins anew."""
        rounds: list[Callable[[], Awaitable[object]]]
        rounds = [self._orchestrate, self.allocator.allocate, self.scheduler.schedule, self._reap,
                  self.rebalancer.step]  # fmt: skip
        self.rng.shuffle(rounds)
        for each in rounds:
            try:
                await each()
            except Interrupted:
                self.new_leader()
                return

    async def _orchestrate(self) -> None:
        self.orchestrator.mark_all()
        await self.orchestrator.reconcile()

    async def _reap(self) -> None:
        self.reaper.mark(self.store.view().all(Task))
        await self.reaper.sweep()

    async def nodes(self) -> None:
        """Every node that can be reached takes its tasks one state on, and tells."""
        writer = StatusWriter(self.store)
        owner = TaskOwner("nodes")
        for node in self.store.view().all(Node):
            if node.id in self.cut or node.status.state is not NodeState.READY:
                continue
            updates = self._node(node)
            if updates:
                owner.spawn(writer.report(node.id, updates), name=node.id)
        await asyncio.sleep(0)
        try:
            await writer.flush()
        except ShoalError:
            self.new_leader()
        await owner.close()

    def _node(self, node: Node) -> list[TaskStatusUpdate]:
        here = self.running[node.id]
        assigned = {task.id: task for task in self.store.view().tasks_on_node(node.id)}
        here.intersection_update(assigned)  # what is no longer assigned is removed
        updates = []
        for task in assigned.values():
            state = self._step(task, here)
            if state is not None:
                status = TaskStatus(state=state, timestamp=self.clock.now_ns())
                updates.append(TaskStatusUpdate(task_id=task.id, status=status))
        return updates

    def _step(self, task: Task, here: set[str]) -> TaskState | None:
        state = task.status.state
        if state < S.ASSIGNED or state.terminal:
            here.discard(task.id)
            return None
        if task.desired_state > S.RUNNING:
            here.discard(task.id)
            return S.SHUTDOWN
        if state is S.RUNNING:
            return None
        if state is S.READY and task.desired_state < S.RUNNING:
            return None
        if state is S.STARTING and self.image_fails(task):
            return S.FAILED
        if state is S.STARTING:
            here.add(task.id)
        return _NEXT[state]

    async def settle(self, rounds: int = 80, seconds: float = 2) -> None:
        for _ in range(rounds):
            await self.loops()
            await self.nodes()
            self.clock.seconds += seconds

    # --- what is so ---------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Containers that run, by service."""
        view, found = self.store.view(), defaultdict(int)
        for node_id, tasks in self.running.items():
            for task_id in tasks:
                task = view.get(Task, task_id)
                assert task is not None, f"a container of a forgotten task runs on {node_id}"
                found[task.service_id] += 1
        return dict(found)
