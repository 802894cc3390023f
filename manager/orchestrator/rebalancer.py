"""The rebalancer's shell: one move at a time in the whole swarm, each decided on and written in one transaction.

What follows is the orchestrator's, as in an update: the new task is prepared, the old one stops, the new one runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from api.types.objects import Cluster, Node, Service, Task
from base.clock import NS
from base.ids import swarm_id
from manager.orchestrator import balance
from manager.orchestrator.slots import Context, Slot, end, make_task, slots_of
from manager.store.store import Batch, Store
from manager.store.transitions import Component
from manager.store.view import View

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
"""At most so often: a swarm that is busy is not the time to even it out."""
LOOK_AGAIN_S: Final = 30.0
"""At least so often while a service has a budget: the other services' tasks count too."""


class Rebalancer:
    """Leader only. Shares the orchestrator's ownership of tasks' creation and desired state."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self) -> None:
        """Runs until cancelled."""
        async with self._store.watch(("services", "tasks", "nodes", "clusters")) as watch:
            while True:
                wake_at = await self.step()
                sleep_s = None if wake_at is None else max(wake_at - self._store.clock.now_ns(), 0) / NS
                await watch.next(sleep_s)
                await asyncio.sleep(LOOK_EVERY_S)

    async def step(self) -> int | None:
        """Make one move if one is due. When to look again, ns; None: when something changes."""
        return await self._store.update(Component.ORCHESTRATOR, _step)


def _step(batch: Batch) -> int | None:
    view = batch.view
    budgets = budgets_of(view.all(Service), view.cluster())
    if not budgets:
        return None
    wake_at = batch.now + int(LOOK_AGAIN_S * NS)
    tasks = view.all(Task)
    if balance.moving(tasks):
        return wake_at
    nodes = {node.id: node for node in view.all(Node)}
    for service, moves_a_minute in budgets:
        due = balance.allowed_at(view.tasks_of_service(service.id), moves_a_minute, batch.now)
        if due > batch.now:
            wake_at = min(wake_at, due)
        elif (move := balance.next_move(service, tasks, nodes, batch.now)) is not None:
            log.info("moving a task of service=%s slot=%d from=%s", service.spec.name, move.task.slot, move.source)
            _put(batch, service, move, nodes)
            return wake_at
    return wake_at


def _put(batch: Batch, service: Service, move: balance.Move, nodes: dict[str, Node]) -> None:
    slot = slots_of(batch.view.tasks_of_service(service.id))[str(move.task.slot)]
    leaving = end(move.task)
    others = [leaving if task.id == leaving.id else task for task in slot.tasks]
    successor = make_task(Context(service, nodes, batch.now, swarm_id), Slot(slot.number, "", others))
    batch.put(leaving)
    batch.put(msgspec.structs.replace(successor, moved_from=move.source))


def budgets_of(services: Sequence[Service], cluster: Cluster | None) -> list[tuple[Service, int]]:
    """The services that may move tasks, each with its moves a minute."""
    return [(service, count) for service in services if (count := balance.budget(service, cluster))]


@dataclass(frozen=True)
class Preview:
    """What would be moved of a service; with a budget of 0 nothing is."""

    service: Service
    moves_a_minute: int
    moves: list[balance.Move]


def preview(view: View, now: int) -> list[Preview]:
    """All moves of all services as things stand, also of those that are off; services without moves are left out."""
    cluster, tasks = view.cluster(), list[Task](view.all(Task))
    nodes = {node.id: node for node in view.all(Node)}
    found: list[Preview] = []
    for service in view.all(Service):
        moves, after = balance.all_moves(service, tasks, nodes, now)
        if moves:
            found.append(Preview(service, balance.budget(service, cluster), moves))
            tasks = list(after)
    return found
