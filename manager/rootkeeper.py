"""Begins the replacement of the swarm's root, and ends it when every node has followed. Runs on the leader.

What is done and what is left is in the store (ca/rotation.py), so a new leader goes on where the last one was.
"""

from __future__ import annotations

import logging

from api import errors
from api.types.objects import Node
from ca import rotation
from manager import operations as ops
from manager.store.store import Batch, Store
from manager.store.transitions import Component

log = logging.getLogger(__name__)


class RootKeeper:
    """The operation, and the leader's loop."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def handlers(self) -> ops.Handlers:
        return {ops.RotateRoot: self.begin}

    async def begin(self, operation: ops.RotateRoot) -> None:
        """Raises as `ca.rotation.begun`."""

        def change(batch: Batch) -> None:
            cluster = batch.view.cluster()
            if cluster is None:
                raise errors.Unavailable("this manager does not know the swarm yet")
            batch.put(rotation.begun(cluster, batch.now))

        await self._store.update(Component.MANAGER, change)
        log.info("the swarm's root is being replaced")

    async def run(self) -> None:
        """Until cancelled."""
        async with self._store.watch(("nodes", "clusters")) as watch:
            while True:
                if await self._store.update(Component.MANAGER, _finish):
                    log.info("the swarm's root was replaced: all nodes have certificates of the new one")
                await watch.next()


def _finish(batch: Batch) -> bool:
    cluster = batch.view.cluster()
    if cluster is None or cluster.root_rotation is None:
        return False
    done = rotation.finished(cluster, batch.view.all(Node))
    if done is not None:
        batch.put(done)
    return done is not None
