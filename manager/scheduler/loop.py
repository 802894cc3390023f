"""The scheduler's shell: PENDING tasks that shall run become ASSIGNED, or say why they can't."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from api.types.objects import Node, Task, TaskState
from manager.scheduler.decide import Decision, decide
from manager.store.memory import Change
from manager.store.store import ACTIONS_MAX, Batch, Store
from manager.store.transitions import Component
from manager.store.view import View

ASSIGNED = "scheduler assigned task to node"
CONFIRMED = "scheduler confirmed task can run on preassigned node"


class Scheduler:
    """Leader only. Owns PENDING → ASSIGNED."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self) -> None:
        """Runs until cancelled."""
        async with self._store.watch(("tasks", "nodes")) as watch:
            await self.schedule()
            while True:
                batch = await watch.next()
                if batch.rescan or any(_matters(change) for change in batch.changes):
                    await self.schedule()

    async def schedule(self) -> None:
        """Place what is pending now, all decided at once; large backlogs are committed in several transactions."""
        stale = True
        while stale:
            stale = False
            view = self._store.view()
            nodes = {node.id: node for node in view.all(Node)}
            decisions = self._decisions(view, nodes)
            for start in range(0, len(decisions), ACTIONS_MAX):
                chunk = decisions[start : start + ACTIONS_MAX]
                stale |= await self._store.update(Component.SCHEDULER, partial(_commit, decisions=chunk, nodes=nodes))

    def _decisions(self, view: View, nodes: Mapping[str, Node]) -> list[Decision]:
        pending = [task for task in view.tasks_in_state(TaskState.PENDING) if task.desired_state <= TaskState.RUNNING]
        if not pending:
            return []
        return decide(pending, nodes.values(), view.all(Task), self._store.clock.now_ns())


def _commit(batch: Batch, *, decisions: Sequence[Decision], nodes: Mapping[str, Node]) -> bool:
    """Put what the decisions come to; true when some were overtaken by another change and are to be made anew."""
    stale = False
    for decision in decisions:
        if not _stands(decision, batch.view, nodes):
            stale = True
        elif (decided := _decided(decision, batch.now)) is not None:
            batch.put(decided)
    return stale


def _stands(decision: Decision, view: View, nodes: Mapping[str, Node]) -> bool:
    task = view.get(Task, decision.task.id)
    if task is None or task.meta.version != decision.task.meta.version:
        return False
    return not decision.node_id or _same(nodes[decision.node_id], view.get(Node, decision.node_id))


def _same(known: Node, now: Node | None) -> bool:
    """Whether the node is what the decision was made for."""
    if now is known:
        return True
    return now is not None and (known.spec, known.role, known.description, known.status.state) == (
        now.spec, now.role, now.description, now.status.state,
    )  # fmt: skip


def _decided(decision: Decision, now: int) -> Task | None:
    """The task as the decision makes it; None when it says what is known already."""
    task, replace = decision.task, msgspec.structs.replace
    if not decision.node_id:
        if task.status.err == decision.reason:
            return None
        return replace(task, status=replace(task.status, timestamp=now, err=decision.reason))
    message = CONFIRMED if task.node_id else ASSIGNED
    status = replace(task.status, state=TaskState.ASSIGNED, timestamp=now, message=message, err="")
    return replace(task, node_id=decision.node_id, status=status)


def _matters(change: Change) -> bool:
    """Whether a change can make a pending task fit: anything but a task's own progress."""
    if change.table == "nodes" or change.new is None:
        return True
    task: Task = change.new
    return (
        task.status.state is TaskState.PENDING or task.status.state.terminal or task.desired_state > TaskState.RUNNING
    )
