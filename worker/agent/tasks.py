"""The node's tasks: one controller each, started from what is assigned and from what was remembered.

Invariant: a task is in the storage before its controller runs and until its container is gone. Cut off from every
manager, tasks run on; a complete assignment reconciles.
"""

from __future__ import annotations

import asyncio
import logging

from msgspec.structs import replace

from api.errors import Unavailable
from api.types.dataplane import OverlayChange
from api.types.dispatch import AssignmentsMessage
from api.types.objects import Task, TaskState, TaskStatus
from base.clock import Clock
from base.supervise import TaskOwner
from worker.agent.limits import LAG_TOLERATED_S
from worker.agent.reporter import Reporter
from worker.agent.storage import AgentStorage, AssignedTask
from worker.exec.controller import RETRY_S, Controller, TaskEngine

log = logging.getLogger(__name__)


class TaskManager:
    """Owns the controllers. `close` ends them and leaves the containers alone."""

    def __init__(self, storage: AgentStorage, engine: TaskEngine, clock: Clock) -> None:
        self.reporter = Reporter(self._acknowledged)
        self._storage = storage
        self._engine = engine
        self._clock = clock
        self._owner = TaskOwner("tasks")
        self._tasks: dict[str, AssignedTask] = {}
        self._controllers: dict[str, Controller] = {}
        self._index, self._index_at = 0, 0.0

    def statuses(self) -> dict[str, TaskStatus]:
        """The last recorded status of every task on this node."""
        return {task_id: item.status for task_id, item in self._tasks.items()}

    async def start_up(self) -> None:
        """Take up again the tasks from before the restart; their containers are adopted by the controllers."""
        self._tasks = await self._storage.tasks()
        for item in self._tasks.values():
            if not item.reported and not item.retired:
                self.reporter.report(item.task.id, item.status)
            self._control(item)

    async def assign(self, message: AssignmentsMessage) -> bool:
        """Make what a dispatcher says ours. On return it is durable and the controllers know. Answers whether the
        networks stand as told, too.

        Raises: Unavailable when the dispatcher lags behind what another one has told us.

        Cancellation: what was not done yet is done by the next complete assignment.
        """
        self._refuse_lagging(message)
        networks = await self._engine.apply_networks(network_change(message))
        wanted = {task.id: task for task in message.update_tasks}
        gone = {task_id for task_id in message.remove_tasks if task_id in self._tasks}
        if message.complete:
            gone |= self._tasks.keys() - wanted.keys()
        changed = {task.id: self._merged(task) for task in wanted.values()}
        changed |= {task_id: replace(self._tasks[task_id], retired=True) for task_id in gone - wanted.keys()}
        # Memory first, then the write, here and in `_moved`: writes then go to disk in the order of the changes.
        self._tasks.update(changed)
        await self._storage.save(changed.values())
        for task_id in changed:
            if task_id in self._tasks:
                self._apply(self._tasks[task_id])
        self._index, self._index_at = max(self._index, message.index), self._clock.monotonic()
        return networks

    async def retire_all(self) -> None:
        """The node is none of the swarm's any more: stop and remove every task. Durable on return."""
        changed = {task_id: replace(item, retired=True) for task_id, item in self._tasks.items() if not item.retired}
        self._tasks.update(changed)
        await self._storage.save(changed.values())
        for item in changed.values():
            self._apply(item)

    def _refuse_lagging(self, message: AssignmentsMessage) -> None:
        lags = message.complete and message.index < self._index
        if lags and self._clock.monotonic() - self._index_at < LAG_TOLERATED_S:
            raise Unavailable(f"the dispatcher stands at index {message.index}, we are at {self._index}")
        if message.complete:
            self._index = message.index

    def _merged(self, task: Task) -> AssignedTask:
        """Our record of a task after the managers' word: the wish is theirs, the status is ours."""
        known = self._tasks.get(task.id)
        if known is None:
            return AssignedTask(task=task, status=task.status, reported=True)
        if known.retired:
            return known  # what was removed does not come back
        # Nor does what was told to stop run on: a leader that is new holds orders back that another one gave.
        desired = max(task.desired_state, known.task.desired_state)
        return replace(known, task=replace(task, desired_state=desired))

    def _apply(self, item: AssignedTask) -> None:
        controller = self._controllers.get(item.task.id)
        if item.retired:
            self.reporter.forget(item.task.id)
        if controller is None:
            self._control(item)
        elif item.retired:
            controller.retire()
        else:
            controller.update(item.task)

    def _control(self, item: AssignedTask) -> None:
        task_id = item.task.id
        task = replace(item.task, desired_state=TaskState.REMOVE) if item.retired else item.task
        controller = Controller(task, item.status, self._engine, self._moved, self._clock)
        self._controllers[task_id] = controller
        self._owner.spawn(self._drive(task_id, controller), name=task_id)

    async def _drive(self, task_id: str, controller: Controller) -> None:
        while True:
            try:
                await controller.run()
                break
            except Exception:
                log.exception("controller broke task_id=%s", task_id)
                await asyncio.sleep(RETRY_S)  # it keeps no state that could be half changed: begin again
        del self._controllers[task_id]
        if self._tasks[task_id].retired:
            del self._tasks[task_id]
            await self._storage.remove(task_id)

    async def _moved(self, task_id: str, status: TaskStatus) -> None:
        item = replace(self._tasks[task_id], status=status, reported=False)
        self._tasks[task_id] = item
        await self._storage.save([item])
        if not item.retired:
            self.reporter.report(task_id, status)

    async def _acknowledged(self, settled: dict[str, TaskStatus]) -> None:
        done = []
        for task_id, status in settled.items():
            known = self._tasks.get(task_id)
            if known is not None and known.status.state is status.state:
                self._tasks[task_id] = replace(known, reported=True)
                done.append(self._tasks[task_id])
        await self._storage.save(done)

    async def close(self) -> None:
        await self._owner.close()


def network_change(message: AssignmentsMessage) -> OverlayChange:
    """The part of an assignment that is about networks."""
    return OverlayChange(
        index=message.index,
        complete=message.complete,
        update=message.update_networks,
        remove=message.remove_networks,
        update_services=message.update_services,
        remove_services=message.remove_services,
    )
