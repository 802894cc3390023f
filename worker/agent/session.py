"""One session with one dispatcher: it begins with the stream that names it, and any failing part ends all of it.

While it lives, heartbeats keep it, assignments come in gap-free, statuses go out. Why it ended is the exception that
`run` raises; it never just returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing

import grpc
from msgspec.structs import replace

from api.errors import Internal, ShoalError, Unavailable
from api.rpc.client import call, call_stream
from api.rpc.swarm_methods import (
    DISPATCHER_ASSIGNMENTS,
    DISPATCHER_HEARTBEAT,
    DISPATCHER_SESSION,
    DISPATCHER_UPDATE_STATUS,
)
from api.types.dispatch import (
    AssignmentsMessage,
    AssignmentsRequest,
    HeartbeatRequest,
    SessionMessage,
    SessionRequest,
    TaskStatusUpdate,
    UpdateTaskStatusRequest,
)
from api.types.objects import NodeDescription
from base.clock import NS
from worker.agent.limits import CALL_S, HEARTBEAT_EARLY, HEARTBEAT_MIN_S, HEARTBEAT_S, SESSION_START_S
from worker.agent.tasks import TaskManager

log = logging.getLogger(__name__)

Heard = Callable[[SessionMessage], None]


class Session:
    """Made for one try; `session_id` is set once the dispatcher has answered."""

    def __init__(self, channel: grpc.aio.Channel, tasks: TaskManager, heard: Heard, rng: random.Random) -> None:
        """
        Args:
            heard: told of every message of the session stream (managers, role, root).
        """
        self._channel = channel
        self._tasks = tasks
        self._heard = heard
        self._rng = rng
        self._started = asyncio.Event()
        self._period_s = HEARTBEAT_S
        self._applied_index = 0
        self._acknowledge = asyncio.Event()
        """A heartbeat is due at once."""
        self.session_id = ""

    async def run(self, description: NodeDescription, previous: str) -> None:
        """Raises the ShoalError that ended the session."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(SessionRequest(description=description, session_id=previous)))
                async with asyncio.timeout(SESSION_START_S):
                    await self._started.wait()
                group.create_task(self._beat())
                group.create_task(self._receive())
                group.create_task(self._tasks.reporter.run(self._send))
        except ExceptionGroup as group_of:
            raise _reason(group_of) from group_of

    async def _listen(self, request: SessionRequest) -> None:
        async with aclosing(call_stream(self._channel, DISPATCHER_SESSION, request)) as messages:
            async for message in messages:
                self.session_id = message.session_id
                if message.heartbeat_period_ns:
                    self._set_period(message.heartbeat_period_ns)
                self._heard(message)
                self._started.set()
        raise Unavailable("the dispatcher ended the session")

    async def _beat(self) -> None:
        while True:
            self._acknowledge.clear()
            request = HeartbeatRequest(session_id=self.session_id, applied_index=self._applied_index)
            answer = await call(self._channel, DISPATCHER_HEARTBEAT, request, timeout=CALL_S)
            self._set_period(answer.period_ns)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period_s * (1 - HEARTBEAT_EARLY * self._rng.random())):
                    await self._acknowledge.wait()

    async def _receive(self) -> None:
        request = AssignmentsRequest(session_id=self.session_id)
        expected: int | None = None
        before: list[AssignmentsMessage] = []
        async with aclosing(call_stream(self._channel, DISPATCHER_ASSIGNMENTS, request)) as messages:
            async for part in messages:
                if part.more:
                    before.append(part)
                    continue
                message, before = joined([*before, part]), []
                _check_sequence(message, expected)
                expected = message.sequence + 1
                if not await self._tasks.assign(message):
                    continue  # not acknowledged: a later message, or the engine's own check, brings it about
                self._applied_index = max(self._applied_index, message.index)
                if message.complete or message.update_services or message.remove_services:
                    self._acknowledge.set()  # orders to stop tasks wait for it
        raise Unavailable("the dispatcher ended the assignments")

    async def _send(self, updates: list[TaskStatusUpdate]) -> None:
        request = UpdateTaskStatusRequest(session_id=self.session_id, updates=updates)
        await call(self._channel, DISPATCHER_UPDATE_STATUS, request, timeout=CALL_S)

    def _set_period(self, period_ns: int) -> None:
        self._period_s = max(HEARTBEAT_MIN_S, period_ns / NS)


def joined(parts: Sequence[AssignmentsMessage]) -> AssignmentsMessage:
    """One message of its parts; what is not cut is in the first. Raises Internal for parts of several messages."""
    first = parts[0]
    if any((part.sequence, part.complete) != (first.sequence, first.complete) for part in parts):
        raise Internal(f"assignment {first.sequence} came in parts of several messages")
    return replace(
        first,
        update_tasks=[task for part in parts for task in part.update_tasks],
        update_services=[service for part in parts for service in part.update_services],
        more=False,
    )


def _check_sequence(message: AssignmentsMessage, expected: int | None) -> None:
    """Raises Internal for a gap: a new session brings a complete assignment."""
    if expected is None and not message.complete:
        raise Internal("the first assignment is not a complete one")
    if expected is not None and message.sequence != expected:
        raise Internal(f"assignment {message.sequence} came where {expected} was due")


def _reason(failed: ExceptionGroup[Exception]) -> ShoalError:
    """What to say of the parts that failed at once: the first named error, or that something of ours broke."""
    leaves: list[Exception] = []
    groups: list[ExceptionGroup[Exception]] = [failed]
    while groups:
        for error in groups.pop().exceptions:
            if isinstance(error, ExceptionGroup):
                groups.append(error)
            else:
                leaves.append(error)
    for error in leaves:
        if isinstance(error, ShoalError):
            return error
    if isinstance(leaves[0], TimeoutError):
        return Unavailable("the dispatcher did not answer in time")
    # A message of another shape, a disk that is full: the session ends, the node goes on and tries again.
    log.error("session broke", exc_info=leaves[0])
    return Internal(f"the session broke: {leaves[0]}")
