"""A dispatcher that a test scripts, behind the real RPC plumbing: gRPC with mutual TLS, sessions, sequence numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from api import errors
from api.rpc.methods import Method
from api.rpc.server import Handler, Peer
from api.rpc.swarm_methods import (
    DISPATCHER_ASSIGNMENTS,
    DISPATCHER_HEARTBEAT,
    DISPATCHER_SESSION,
    DISPATCHER_UPDATE_STATUS,
    NODES,
)
from api.types.dispatch import (
    AssignmentsMessage,
    AssignmentsRequest,
    HeartbeatRequest,
    HeartbeatResponse,
    ManagerPeer,
    SessionMessage,
    SessionRequest,
    UpdateTaskStatusRequest,
    UpdateTaskStatusResponse,
)
from api.types.objects import NodeDescription, Task, TaskState, TaskStatus
from base.clock import NS
from base.ids import swarm_id


class Dispatcher:
    """One manager's dispatcher for one node."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.managers: list[ManagerPeer] = []
        self.role = "worker"
        self.refusal: errors.ShoalError | None = None
        self.update_errors: list[errors.ShoalError] = []
        self.index = 10
        self.skip_sequence = False
        self.sessions: list[str] = []
        self.description: NodeDescription | None = None
        self.peers: set[str] = set()
        self.heartbeats: list[int] = []
        self.reports: list[tuple[str, TaskStatus]] = []
        self.statuses: dict[str, TaskStatus] = {}
        self._news = asyncio.Condition()
        self._queue: asyncio.Queue[AssignmentsMessage | None] = asyncio.Queue()
        self._session_queue: asyncio.Queue[errors.ShoalError | None] = asyncio.Queue()

    def handlers(self) -> dict[Method[Any, Any], tuple[frozenset[str], Handler]]:
        return {
            DISPATCHER_SESSION: (NODES, self._session),
            DISPATCHER_HEARTBEAT: (NODES, self._heartbeat),
            DISPATCHER_UPDATE_STATUS: (NODES, self._update),
            DISPATCHER_ASSIGNMENTS: (NODES, self._assignments),
        }

    # What tests do

    def assign(self, *tasks: Task) -> None:
        """Tell the node of new or changed tasks."""
        self.tasks |= {task.id: task for task in tasks}
        self.index += 1
        self._queue.put_nowait(
            AssignmentsMessage(complete=False, sequence=0, index=self.index, update_tasks=list(tasks))
        )

    def unassign(self, *task_ids: str) -> None:
        for task_id in task_ids:
            del self.tasks[task_id]
        self.index += 1
        self._queue.put_nowait(
            AssignmentsMessage(complete=False, sequence=0, index=self.index, remove_tasks=list(task_ids))
        )

    def end_session(self, error: errors.ShoalError | None = None) -> None:
        self._session_queue.put_nowait(error)

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(10), self._news:
            await self._news.wait_for(condition)

    async def task_is(self, task_id: str, state: TaskState) -> TaskStatus:
        await self.until(lambda: task_id in self.statuses and self.statuses[task_id].state is state)
        return self.statuses[task_id]

    async def _changed(self) -> None:
        async with self._news:
            self._news.notify_all()

    # The calls

    async def _session(self, request: SessionRequest, peer: Peer) -> AsyncIterator[SessionMessage]:
        if self.refusal is not None:
            raise self.refusal
        self.peers.add(peer.node_id)
        self.description = request.description
        self.sessions.append(swarm_id())
        self._queue, self._session_queue = asyncio.Queue(), asyncio.Queue()
        await self._changed()
        while True:
            yield SessionMessage(
                session_id=self.sessions[-1], managers=self.managers, role=self.role, heartbeat_period_ns=NS // 10
            )
            error = await self._session_queue.get()
            if error is not None:
                raise error
            if not self.role:
                return

    async def _heartbeat(self, request: HeartbeatRequest, peer: Peer) -> HeartbeatResponse:
        self._require(request.session_id)
        self.heartbeats.append(request.applied_index)
        await self._changed()
        return HeartbeatResponse(period_ns=NS // 10)

    async def _update(self, request: UpdateTaskStatusRequest, peer: Peer) -> UpdateTaskStatusResponse:
        self._require(request.session_id)
        if self.update_errors:
            raise self.update_errors.pop(0)
        for update in request.updates:
            self.reports.append((update.task_id, update.status))
            self.statuses[update.task_id] = update.status
        await self._changed()
        return UpdateTaskStatusResponse()

    async def _assignments(self, request: AssignmentsRequest, peer: Peer) -> AsyncIterator[AssignmentsMessage]:
        self._require(request.session_id)
        queue = self._queue
        sequence = 0
        yield AssignmentsMessage(complete=True, sequence=0, index=self.index, update_tasks=list(self.tasks.values()))
        while True:
            message = await queue.get()
            if message is None:
                return
            sequence += 2 if self.skip_sequence else 1
            yield AssignmentsMessage(
                complete=False,
                sequence=sequence,
                index=message.index,
                update_tasks=message.update_tasks,
                remove_tasks=message.remove_tasks,
            )

    def _require(self, session_id: str) -> None:
        if not self.sessions or session_id != self.sessions[-1]:
            raise errors.NotFound("invalid session")
