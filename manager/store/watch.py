"""The queue of changes. Each watcher has its own, bounded; one that falls behind is told to scan again.

Invariant: a watcher that handles every batch, and rescans when told to, misses nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from manager.store.memory import Change

QUEUE_CHANGES_MAX = 16_384


@dataclass(frozen=True)
class Batch:
    """What happened since the last look. With `rescan` the changes are incomplete: read the tables anew."""

    changes: Sequence[Change]
    rescan: bool


class Watch:
    """One watcher's queue, for the named tables; `async with` it, so that it is given up at the end."""

    def __init__(self, owner: WatchHub, tables: Collection[str], limit: int) -> None:
        self._owner = owner
        self._tables = frozenset(tables)
        self._limit = limit
        self._changes: deque[Change] = deque()
        self._rescan = False
        self._woken = asyncio.Event()

    def offer(self, changes: Sequence[Change]) -> None:
        """Called by the hub."""
        wanted = [change for change in changes if change.table in self._tables]
        if not wanted:
            return
        if len(self._changes) + len(wanted) > self._limit:
            self.overflow()
            return
        if not self._rescan:
            self._changes.extend(wanted)
        self._woken.set()

    def overflow(self) -> None:
        """Forget what is queued; the watcher has to scan."""
        self._changes.clear()
        self._rescan = True
        self._woken.set()

    def wake(self) -> None:
        """End the wait in `next` though nothing changed."""
        self._woken.set()

    async def next(self, timeout_s: float | None = None) -> Batch:
        """Wait for changes, at most `timeout_s`; an empty batch when the time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            pass
        return self.take()

    def take(self) -> Batch:
        """What is queued now, without waiting."""
        batch = Batch(tuple(self._changes), self._rescan)
        self._changes.clear()
        self._rescan = False
        self._woken.clear()
        return batch

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._owner.forget(self)


class WatchHub:
    """All watchers of a store."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()

    def watch(self, tables: Collection[str], limit: int = QUEUE_CHANGES_MAX) -> Watch:
        """A watch that sees every change from this moment on."""
        watch = Watch(self, tables, limit)
        self._watches.add(watch)
        return watch

    def forget(self, watch: Watch) -> None:
        self._watches.discard(watch)

    def publish(self, changes: Sequence[Change]) -> None:
        for watch in self._watches:
            watch.offer(changes)

    def rescan(self) -> None:
        """Everything was replaced (a snapshot)."""
        for watch in self._watches:
            watch.overflow()
