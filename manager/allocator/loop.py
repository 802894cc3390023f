"""The allocator's shell: services get their endpoint, and NEW tasks of an allocated service become PENDING."""

from __future__ import annotations

import logging

import msgspec

from api.types.objects import Service, Task, TaskState
from manager.allocator.ports import Exhausted, allocate, is_allocated, ports_of
from manager.store.store import ACTIONS_MAX, Batch, Store
from manager.store.transitions import Component

log = logging.getLogger(__name__)

PENDING = "pending task scheduling"


class Allocator:
    """Leader only. Owns NEW → PENDING and `service.endpoint`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self) -> None:
        """Runs until cancelled."""
        async with self._store.watch(("services", "tasks")) as watch:
            await self.allocate()
            while True:
                batch = await watch.next()
                if batch.rescan or any(
                    change.table == "services" or (change.new is not None and change.new.status.state is TaskState.NEW)
                    for change in batch.changes
                ):
                    await self.allocate()

    async def allocate(self) -> None:
        """Do all that can be done now."""
        while await self._store.update(Component.ALLOCATOR, self._tick):
            pass

    def _tick(self, batch: Batch) -> bool:
        services = self._services(batch)
        waiting = batch.view.tasks_in_state(TaskState.NEW)
        ready = [task for task in waiting if task.service_id in services]
        for task in ready[:ACTIONS_MAX]:
            batch.put(_pending(task, services[task.service_id], batch.now))
        return len(ready) > ACTIONS_MAX

    def _services(self, batch: Batch) -> dict[str, Service]:
        """The services whose endpoint stands, with those allocated in this transaction."""
        known = {service.id: service for service in batch.view.all(Service)}
        done: dict[str, Service] = {}
        for service in known.values():
            if not is_allocated(service):
                endpoint = allocate(service, ports_of(known.values(), but=service.id))
                if isinstance(endpoint, Exhausted):
                    log.error("no published port left service=%s protocol=%s", service.id, endpoint.protocol)
                    continue
                service = msgspec.structs.replace(service, endpoint=endpoint)
                known[service.id] = service
                batch.put(service)
            done[service.id] = service
        return done


def _pending(task: Task, service: Service, now: int) -> Task:
    status = msgspec.structs.replace(task.status, state=TaskState.PENDING, timestamp=now, message=PENDING)
    return msgspec.structs.replace(task, status=status, endpoint=service.endpoint)
