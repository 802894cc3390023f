"""What runs while this manager leads: every loop of the manager, in one TaskGroup a term.

Losing leadership cancels the group and waits for its end before anything of the next term begins. A loop that fails
ends the whole term's group; while the manager still leads, it is started again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from base.supervise import TaskOwner, cancel_and_wait
from raft.node import LeadershipChange, RaftNode

log = logging.getLogger(__name__)

RESTART_S = 0.5

Loops = Mapping[str, Callable[[], Awaitable[None]]]


class Leadership:
    """Starts and ends the leader's loops."""

    def __init__(self, raft: RaftNode, prepare: Callable[[], Awaitable[None]], loops: Callable[[], Loops]) -> None:
        """
        Args:
            prepare: what a new leader does before its loops start.
            loops: makes the loops anew for each term; their state must not outlive it.
        """
        self._raft = raft
        self._prepare = prepare
        self._loops = loops

    async def run(self) -> None:
        """Follow the leadership until cancelled."""
        owner = TaskOwner("leader")
        term: asyncio.Task[None] | None = None
        try:
            async for change in self._raft.watch_leadership():
                if term is not None:
                    await cancel_and_wait(term)
                    term = None
                if change.is_leader:
                    term = owner.spawn(self._lead(change), name=f"term-{change.term}")
        finally:
            await owner.close()

    async def _lead(self, change: LeadershipChange) -> None:
        log.info("this manager leads term=%d", change.term)
        while True:
            try:
                await self._prepare()
                async with asyncio.TaskGroup() as group:
                    for name, run in self._loops().items():
                        group.create_task(_awaited(run), name=f"leader/{name}")
            except Exception as error:
                # Whatever broke, the swarm needs its loops again; a term that is over ends by cancellation.
                if self._raft.status().is_leader:
                    log.error("the leader's loops failed term=%d", change.term, exc_info=error)
            await asyncio.sleep(RESTART_S)


async def _awaited(run: Callable[[], Awaitable[None]]) -> None:
    await run()
