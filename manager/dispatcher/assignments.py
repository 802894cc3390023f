"""What a node is told: the difference between what it was sent last and what the store says. Pure.

Invariant: after applying every message in order, the node's set is exactly `wanted(view)` at the message's index.
A node's own status reports are not sent back to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from api.types.objects import Meta, Task, TaskState, TaskStatus


def wanted(tasks: Iterable[Task]) -> dict[str, Task]:
    """The tasks that a node shall know: all that were assigned to it and are not deleted, those to be stopped too."""
    return {task.id: task for task in tasks if task.status.state >= TaskState.ASSIGNED}


def same_order(old: Task, new: Task) -> bool:
    """Whether both ask the node for the same; status and version aside."""
    return _order(old) == _order(new)


def _order(task: Task) -> Task:
    return msgspec.structs.replace(task, meta=Meta(), status=TaskStatus())


def difference(sent: Mapping[str, Task], now: Mapping[str, Task]) -> tuple[list[Task], list[str]]:
    """(tasks to update, ids to remove) that lead from what was sent to what is wanted now."""
    update = [task for task_id, task in now.items() if task_id not in sent or not same_order(sent[task_id], task)]
    remove = [task_id for task_id in sent if task_id not in now]
    return update, remove
