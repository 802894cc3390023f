"""The agent: always in a session with a dispatcher, or on the way to the next one.

Tasks do not depend on it: they run on while no manager can be reached, and what they did meanwhile is reported by the
next session.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from api.errors import ShoalError
from api.types.dispatch import ManagerPeer, SessionMessage
from api.types.objects import NodeDescription, TaskStatus
from base.clock import Clock
from base.logs import add_context
from worker.agent.managers import backoff_s, choose, dismissed, leader_hint
from worker.agent.session import Session
from worker.agent.storage import AgentStorage
from worker.agent.tasks import TaskManager
from worker.exec.controller import TaskEngine

log = logging.getLogger(__name__)


class Agent:
    """One for each node of a swarm, managers included. `run` returns only when cancelled."""

    def __init__(
        self,
        *,
        node_id: str,
        description: Callable[[], NodeDescription],
        managers: Sequence[str],
        connect: Callable[[str], grpc.aio.Channel],
        engine: TaskEngine,
        directory: Path,
        clock: Clock,
        rng: random.Random,
        heard: Callable[[SessionMessage], None] = lambda message: None,
    ) -> None:
        """
        Args:
            managers: addresses (`host:port`) to begin with, while no dispatcher has told of others.
            connect: a channel to a manager with this node's identity (`ca.tls.channel`).
            directory: where worker.db is kept (`<data-root>/swarm`).
            heard: told of every session message; the daemon watches role and root certificate.
        """
        self._node_id = node_id
        self._description = description
        self._seeds = list(managers)
        self._connect = connect
        self._rng = rng
        self._heard_by = heard
        self._storage = AgentStorage(directory)
        self._tasks = TaskManager(self._storage, engine, clock)
        self._peers: list[ManagerPeer] = []
        self._peers_changed = asyncio.Event()
        self._session: Session | None = None
        self._restart = asyncio.Event()

    @property
    def managers(self) -> list[ManagerPeer]:
        """As the last session told."""
        return list(self._peers)

    @property
    def connected(self) -> bool:
        """Whether a dispatcher has acknowledged a session that still lives."""
        return self._session is not None and bool(self._session.session_id)

    def statuses(self) -> dict[str, TaskStatus]:
        """The last recorded status of every task on this node."""
        return self._tasks.statuses()

    def reconnect(self) -> None:
        """End the present session and begin another, over a new channel (the node's identity changed)."""
        self._restart.set()

    async def run(self, ready: asyncio.Event | None = None) -> None:
        """
        Args:
            ready: set when the tasks from before a restart are taken up; a session may come much later.

        Cancellation: controllers end, containers run on.
        """
        add_context(node_id=self._node_id)
        await self._storage.open()
        try:
            self._peers = await self._storage.managers()
            await self._tasks.start_up()
            if ready is not None:
                ready.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._save_managers())
                group.create_task(self._stay_connected())
        finally:
            await self._tasks.close()
            await self._storage.close()

    async def _stay_connected(self) -> None:
        failures, failed, hint, previous, told = 0, "", "", "", ""
        while True:
            addr = hint or choose([peer.addr for peer in self._peers], self._seeds, failed, self._rng)
            error, session = await self._converse(addr, previous) if addr else (None, None)
            if session is not None and session.session_id:
                failures, previous, told = 0, session.session_id, ""
            # A follower that names the leader sends us there at once, unless that is where we come from.
            named = leader_hint(error.message) if error is not None else ""
            hint = named if named != addr and not hint else ""
            failed = addr
            failures += 1
            if error is not None and dismissed(error):
                await self._tasks.retire_all()
            if error is not None:
                # Once for each new reason: a node that is cut off for hours should not fill its log.
                level = logging.INFO if error.message != told else logging.DEBUG
                log.log(level, "session ended manager=%s leader=%s error=%s", addr, named or "?", error)
                told = error.message
            if not hint:
                await asyncio.sleep(backoff_s(failures, self._rng))

    async def _converse(self, addr: str, previous: str) -> tuple[ShoalError | None, Session]:
        """One session with one manager, from its channel's begin to its end; returns why it ended."""
        channel = self._connect(addr)
        session = Session(channel, self._tasks, self._heard, self._rng)
        self._session = session
        self._restart.clear()
        try:
            async with asyncio.TaskGroup() as group:
                restart = group.create_task(self._restart.wait())
                talk = group.create_task(_ended(session, self._description(), previous))
                await asyncio.wait((restart, talk), return_when=asyncio.FIRST_COMPLETED)
                restart.cancel()
                talk.cancel()
            return (None if talk.cancelled() else talk.result()), session
        finally:
            self._session = None
            await channel.close(None)

    def _heard(self, message: SessionMessage) -> None:
        if message.managers and message.managers != self._peers:
            self._peers = message.managers
            self._peers_changed.set()
        self._heard_by(message)

    async def _save_managers(self) -> None:
        while True:
            await self._peers_changed.wait()
            self._peers_changed.clear()
            await self._storage.save_managers(self._peers)


async def _ended(session: Session, description: NodeDescription, previous: str) -> ShoalError | None:
    try:
        await session.run(description, previous)
    except ShoalError as error:
        return error
    return None
