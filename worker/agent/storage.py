"""What a node remembers of the swarm across restarts: its tasks with their last status, and where managers are.

One SQLite file, `worker.db`. A task is written before its controller starts; a status before anybody is told of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from api.types.base import Record
from api.types.dispatch import ManagerPeer
from api.types.objects import Task, TaskStatus
from worker.engine.records import Delete, Put, Records

_TASKS, _MANAGERS = "task", "manager"


class AssignedTask(Record, frozen=True, kw_only=True):
    """A task on this node."""

    task: Task
    status: TaskStatus
    reported: bool = False
    """A manager has acknowledged `status`."""
    retired: bool = False
    """No longer assigned: it only has to be stopped and removed."""


class _Managers(Record, frozen=True, kw_only=True):
    peers: list[ManagerPeer]


class AgentStorage:
    """The node's own records."""

    def __init__(self, directory: Path) -> None:
        self._records = Records(directory / "worker.db")

    async def open(self) -> None:
        await self._records.open()

    async def tasks(self) -> dict[str, AssignedTask]:
        return await self._records.all(_TASKS, AssignedTask)

    async def managers(self) -> list[ManagerPeer]:
        """As last heard; empty on a fresh node."""
        stored = await self._records.all(_MANAGERS, _Managers)
        return stored["all"].peers if "all" in stored else []

    async def save_managers(self, peers: list[ManagerPeer]) -> None:
        await self._records.write(Put(_MANAGERS, "all", _Managers(peers=peers)))

    async def save(self, tasks: Iterable[AssignedTask]) -> None:
        """All of them in one transaction, durable on return."""
        changes = [Put(_TASKS, item.task.id, item) for item in tasks]
        if changes:
            await self._records.write(*changes)

    async def remove(self, task_id: str) -> None:
        await self._records.write(Delete(_TASKS, task_id))

    async def close(self) -> None:
        await self._records.close()
