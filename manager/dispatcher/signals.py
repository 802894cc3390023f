"""Who has something to hear: a change wakes the streams of the nodes it concerns and leaves the others asleep.

With a watch a stream, a thousand nodes would look at each other's every task.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator


class Signal:
    """One stream's. What happened before the wait ends it at once."""

    def __init__(self) -> None:
        self.due = False
        """Something happened that the stream has not looked at."""
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self.due = True
        self._woken.set()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Until it is due, at most `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()

    def take(self) -> bool:
        """Whether it was due; the stream looks now."""
        due, self.due = self.due, False
        self._woken.clear()
        return due


class Signals:
    """The streams of one kind, by node."""

    def __init__(self) -> None:
        self._by_node: dict[str, set[Signal]] = {}

    @contextlib.contextmanager
    def open(self, node_id: str) -> Iterator[Signal]:
        """A stream's signal for as long as the stream lasts."""
        signal = Signal()
        self._by_node.setdefault(node_id, set()).add(signal)
        try:
            yield signal
        finally:
            left = self._by_node[node_id]
            left.discard(signal)
            if not left:
                del self._by_node[node_id]

    def wake(self, node_ids: Iterable[str]) -> None:
        for node_id in set(node_ids):
            for signal in self._by_node.get(node_id, ()):
                signal.wake()

    def wake_all(self) -> None:
        self.wake(list(self._by_node))
