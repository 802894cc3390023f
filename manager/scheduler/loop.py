"""The scheduler's shell: PENDING tasks that shall run become ASSIGNED, or say why they can't."""

from __future__ import annotations

import msgspec

from api.types.objects import Node, Task, TaskState
from manager.scheduler.decide import Decision, decide
from manager.store.memory import Change
from manager.store.store import ACTIONS_MAX, Batch, Store
from manager.store.transitions import Component

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
        """Place what is pending now; large backlogs in several transactions."""
        while await self._store.update(Component.SCHEDULER, self._tick):
            pass

    def _tick(self, batch: Batch) -> bool:
        """One transaction's worth; true when there may be more to place."""
        view = batch.view
        pending = [task for task in view.tasks_in_state(TaskState.PENDING) if task.desired_state <= TaskState.RUNNING]
        if not pending:
            return False
        decisions = decide(pending, view.all(Node), view.all(Task))
        changed = [task for decision in decisions if (task := _decided(decision, batch.now)) is not None]
        for task in changed[:ACTIONS_MAX]:
            batch.put(task)
        return len(changed) > ACTIONS_MAX


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
