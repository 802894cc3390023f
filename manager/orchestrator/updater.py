"""The updater: how many slots may change to the new spec now, and what `UpdateStatus` says. Pure.

Order within a slot is stop first, then start; a slot is busy from its replacement until its new task runs, or has
failed where failures don't pause the update, and the delay has passed. Source: v1.24 section 3.9, UpdateConfig.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from api.types.objects import Task, TaskState, UpdateStatus
from api.types.swarm import UpdateConfig
from manager.orchestrator.restart import SELF_ENDED
from manager.orchestrator.slots import Context, Slot, is_dirty, settled

UPDATING: Final = "updating"
PAUSED: Final = "paused"
COMPLETED: Final = "completed"


@dataclass(frozen=True)
class UpdatePlan:
    """`may_update`: keys of the slots to replace now. `status`: to be written when it differs from the service's."""

    may_update: frozenset[str]
    status: UpdateStatus | None
    wake_at: int | None = None


def plan_update(context: Context, slots: dict[str, Slot]) -> UpdatePlan:
    """The update's next step. Slots come in the order in which they are updated."""
    service = context.service
    status = service.update_status
    dirty = [key for key, slot in slots.items() if (task := _standing(slot)) and is_dirty(task, service)]
    if status is not None and status.state != UPDATING:
        return UpdatePlan(frozenset(), status)
    if status is None:
        if not dirty:
            return UpdatePlan(frozenset(), None)
        status = UpdateStatus(state=UPDATING, started_at=context.now, message="update in progress")
    config = service.spec.update_config or UpdateConfig(parallelism=1)
    failed = _failed(context, slots.values(), status)
    if failed is not None and config.failure_action == "pause":
        message = f"update paused due to failure or early termination of task {failed.id}"
        paused = UpdateStatus(state=PAUSED, started_at=status.started_at, message=message)
        return UpdatePlan(frozenset(), paused)
    return _advance(context, slots, dirty, status, config)


def _advance(
    context: Context, slots: dict[str, Slot], dirty: Sequence[str], status: UpdateStatus, config: UpdateConfig
) -> UpdatePlan:
    busy, wake_at = 0, None
    for slot in slots.values():
        until = _busy_until(context, slot, status, config.delay if dirty else 0)
        if until is None or until > context.now:
            busy += 1
            wake_at = until if wake_at is None or (until is not None and until < wake_at) else wake_at
    if not dirty and not busy:
        done = UpdateStatus(
            state=COMPLETED, started_at=status.started_at, completed_at=context.now, message="update completed"
        )
        return UpdatePlan(frozenset(), done)
    room = max(config.parallelism - busy, 0) if config.parallelism else len(dirty)
    return UpdatePlan(frozenset(dirty[:room]), status, wake_at)


def _standing(slot: Slot) -> Task | None:
    return slot.wanted or slot.newest


def _busy_until(context: Context, slot: Slot, status: UpdateStatus, delay: int) -> int | None:
    """When the slot stops being busy, ns; 0: it is not. None: not before its task gets on."""
    failed = _failed(context, (slot,), status)
    if failed is not None:
        return failed.status.timestamp + delay  # it had its turn; the restart policy goes on with it
    task = slot.wanted
    if task is None:
        return 0 if settled(slot) else None
    if is_dirty(task, context.service) or task.meta.created_at < status.started_at:
        return 0
    if task.status.state < TaskState.RUNNING or task.desired_state < TaskState.RUNNING:
        return None
    return task.meta.updated_at + delay


def _failed(context: Context, slots: Iterable[Slot], status: UpdateStatus) -> Task | None:
    """The first task of the new spec that ended by itself since the update began."""
    for slot in slots:
        for task in slot.tasks:
            made_now = task.spec_version == context.service.spec_version and task.meta.created_at >= status.started_at
            if made_now and task.status.state in SELF_ENDED:
                return task
    return None
