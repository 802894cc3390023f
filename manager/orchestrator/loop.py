"""The orchestrator's shell: keeps a set of services to look at, plans each, commits in batches.

A service is looked at when it, one of its tasks or a node changes, and when its plan asked to be woken.
"""

from __future__ import annotations

from api.types.objects import Node, Service, Task
from base.clock import NS
from base.ids import swarm_id
from manager.orchestrator.plan import ServicePlan, plan_removal, plan_service
from manager.orchestrator.slots import Context
from manager.orchestrator.updater import UPDATING
from manager.store.memory import Change
from manager.store.store import ACTIONS_MAX, Batch, Store
from manager.store.transitions import Component


class Orchestrator:
    """Leader only. Owns the creation of tasks, their desired state, and `service.update_status`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._dirty: set[str] = set()
        self._wake_at: dict[str, int] = {}

    async def run(self) -> None:
        """Runs until cancelled."""
        async with self._store.watch(("services", "tasks", "nodes")) as watch:
            self.mark_all()
            while True:
                await self.reconcile()
                batch = await watch.next(self._sleep_s())
                if batch.rescan:
                    self.mark_all()
                for change in batch.changes:
                    self._mark(change)
                self._mark_due()

    async def reconcile(self) -> None:
        """Plan and commit until no service is dirty."""
        while self._dirty:
            await self._store.update(Component.ORCHESTRATOR, self._step)

    def _step(self, batch: Batch) -> None:
        """As many services as one transaction takes. One too large for it stays dirty and is planned again."""
        nodes = {node.id: node for node in batch.view.all(Node)}
        while self._dirty and len(batch.actions) < ACTIONS_MAX:
            service_id = self._dirty.pop()
            plan = self._plan(service_id, batch, nodes)
            if plan.service is not None:
                batch.put(plan.service)
            for group in plan.groups:
                if len(batch.actions) >= ACTIONS_MAX:
                    self._dirty.add(service_id)
                    break
                for task in group:
                    batch.put(task)

    def _plan(self, service_id: str, batch: Batch, nodes: dict[str, Node]) -> ServicePlan:
        tasks = batch.view.tasks_of_service(service_id)
        service = batch.view.get(Service, service_id)
        self._wake_at.pop(service_id, None)
        if service is None:
            return ServicePlan(plan_removal(tasks))
        plan = plan_service(Context(service, nodes, batch.now, swarm_id), tasks)
        if plan.wake_at is not None:
            self._wake_at[service_id] = plan.wake_at
        return plan

    def mark_all(self) -> None:
        view = self._store.view()
        self._dirty.update(service.id for service in view.all(Service))
        self._dirty.update(task.service_id for task in view.all(Task) if task.service_id)

    def _mark(self, change: Change) -> None:
        if change.table == "services":
            self._dirty.add(change.id)
        elif change.table == "tasks":
            task = change.new or change.old
            if task.service_id and (task_matters(change) or self._updating(task.service_id)):
                self._dirty.add(task.service_id)
        elif node_matters(change):
            self.mark_all()

    def _updating(self, service_id: str) -> bool:
        """Whether an update waits for the service's tasks to get on."""
        service = self._store.view().get(Service, service_id)
        status = service.update_status if service is not None else None
        return status is not None and status.state == UPDATING

    def _mark_due(self) -> None:
        now = self._store.clock.now_ns()
        self._dirty.update(service_id for service_id, when in self._wake_at.items() if when <= now)

    def _sleep_s(self) -> float | None:
        if not self._wake_at:
            return None
        return max(min(self._wake_at.values()) - self._store.clock.now_ns(), 0) / NS


def task_matters(change: Change) -> bool:
    """Whether a task's change can change the plan of its service: not if it only got on, as all do that run well."""
    old: Task | None = change.old
    new: Task | None = change.new
    if old is None or new is None or old.desired_state is not new.desired_state:
        return True
    return new.status.state.terminal or old.node_id != new.node_id


def node_matters(change: Change) -> bool:
    """Whether a node's change can move tasks: it came, went, or is another one to the planners."""
    old, new = change.old, change.new
    if old is None or new is None:
        return True
    same_spec = (old.spec, old.role, old.description) == (new.spec, new.role, new.description)
    return not same_spec or old.status.state is not new.status.state
