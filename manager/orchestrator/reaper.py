"""The task reaper: deletes tasks that nobody needs, keeping as much history a slot as the swarm's spec says.

Invariant: a task that may still run somewhere is never deleted, for its node would stop hearing of it only then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from api.types.objects import Cluster, Node, Task, TaskState
from manager.orchestrator.restart import attempts_to_remember
from manager.store.store import ACTIONS_MAX, Batch, Store
from manager.store.transitions import Component

DEFAULT_HISTORY = 5


def reap(tasks: Sequence[Task], nodes: Mapping[str, Node], history: int) -> list[Task]:
    """The tasks of one slot that can go now. Pure.

    Args:
        tasks: all tasks of the slot, in any order.
        history: how many tasks to keep at most, the one that runs included; the newest always stays.
    """
    ordered = sorted(tasks, key=lambda task: (task.meta.created_at, task.id))
    removable = [task for task in ordered if task.desired_state is TaskState.REMOVE and _over(task, nodes)]
    rest = [task for task in ordered if task.desired_state is not TaskState.REMOVE]
    if not rest:
        return removable
    never_ran = [task for task in rest[:-1] if task.desired_state is TaskState.SHUTDOWN and _unassigned(task)]
    rest = [task for task in rest if task not in never_ran]
    keep = max(history, attempts_to_remember(rest[-1]), 1)
    surplus = max(len(rest) - keep, 0)
    old = [task for task in rest[:surplus] if task.desired_state is TaskState.SHUTDOWN and _over(task, nodes)]
    return removable + never_ran + old


def _unassigned(task: Task) -> bool:
    return task.status.state < TaskState.ASSIGNED


def _over(task: Task, nodes: Mapping[str, Node]) -> bool:
    return task.status.state.terminal or _unassigned(task) or task.node_id not in nodes


class Reaper:
    """Leader only. Owns the deletion of tasks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._slots: set[tuple[str, int, str]] = set()

    async def run(self) -> None:
        """Runs until cancelled."""
        async with self._store.watch(("tasks", "nodes", "clusters")) as watch:
            self.mark(self._store.view().all(Task))
            while True:
                await self.sweep()
                batch = await watch.next()
                node_left = any(change.table == "nodes" and change.new is None for change in batch.changes)
                limit_moved = any(change.table == "clusters" for change in batch.changes)
                if batch.rescan or node_left or limit_moved:
                    self.mark(self._store.view().all(Task))
                self.mark([change.new for change in batch.changes if change.table == "tasks" and change.new])

    async def sweep(self) -> None:
        """Reap every slot that has changed."""
        while self._slots:
            await self._store.update(Component.REAPER, self._step)

    def _step(self, batch: Batch) -> None:
        nodes = {node.id: node for node in batch.view.all(Node)}
        history = history_limit(batch.view.cluster())
        while self._slots and len(batch.actions) < ACTIONS_MAX:
            service_id, slot, node_id = self._slots.pop()
            for task in reap(batch.view.tasks_of_slot(service_id, slot, node_id), nodes, history):
                batch.delete(task)

    def mark(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if task.service_id and task.desired_state > TaskState.RUNNING:
                self._slots.add((task.service_id, task.slot, "" if task.slot else task.node_id))


def history_limit(cluster: Cluster | None) -> int:
    """The swarm's TaskHistoryRetentionLimit."""
    limit = cluster.spec.orchestration.task_history_retention_limit if cluster is not None else None
    return DEFAULT_HISTORY if limit is None else limit
