"""The engine's event bus: every part publishes, GET /events and the engine itself subscribe.

Invariants: messages are seen by every subscriber in the order they were published, with times that never go back;
none is dropped silently. A subscriber that falls behind the limit is told so by an error and ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from api.errors import Unavailable
from api.types.event import EventActor, EventMessage
from base.clock import NS, Clock
from worker.engine.events.filter import matches

HISTORY_MESSAGES = 2048
"""How many past messages `since` can reach."""
BACKLOG_MESSAGES = 4096
"""How far a subscriber may lag."""
assert BACKLOG_MESSAGES > HISTORY_MESSAGES, "a replay must fit in the backlog of a new subscriber"

_LEGACY_KINDS = ("container", "image")


class Subscription:
    """One reader. Iterate it; leave with `close()` (also after an error)."""

    def __init__(self, bus: EventBus, until_ns: int | None, filters: Mapping[str, Sequence[str]]) -> None:
        self._bus = bus
        self._until_ns = until_ns
        self._filters = filters
        self._queue: deque[EventMessage] = deque()
        self._wake = asyncio.Event()
        self._lagged = False
        self._closed = False

    def offer(self, message: EventMessage) -> None:
        """Queue a message if it passes the filters; called by the bus."""
        if self._lagged or not matches(message, self._filters):
            return
        if len(self._queue) >= BACKLOG_MESSAGES:
            self._lagged = True
            self._bus.leave(self)
        else:
            self._queue.append(message)
        self._wake.set()

    def __aiter__(self) -> AsyncIterator[EventMessage]:
        return self

    async def __anext__(self) -> EventMessage:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            if self._lagged:
                raise Unavailable(f"the reader of events fell more than {BACKLOG_MESSAGES} messages behind")
            self._wake.clear()
            try:
                async with asyncio.timeout(self._remaining_s()):
                    await self._wake.wait()
            except TimeoutError:
                self.close()
        message = self._queue.popleft()
        if self._until_ns is not None and message.time_ns > self._until_ns:
            self.close()
            self._queue.clear()
            raise StopAsyncIteration
        return message

    def _remaining_s(self) -> float | None:
        if self._until_ns is None:
            return None
        return max(0.0, (self._until_ns - self._bus.clock.now_ns()) / NS)

    def close(self) -> None:
        """Take no more messages; what is queued can still be read."""
        self._closed = True
        self._bus.leave(self)
        self._wake.set()


class EventBus:
    """Satisfies `parts.Events`. Used from the event loop only."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._history: deque[EventMessage] = deque(maxlen=HISTORY_MESSAGES)
        self._subscribers: set[Subscription] = set()
        self._last_ns = 0

    def publish(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        """Tell everybody. `kind` is container, image, network, volume, daemon or plugin."""
        now = max(self.clock.now_ns(), self._last_ns + 1)
        self._last_ns = now
        legacy = kind in _LEGACY_KINDS
        message = EventMessage(
            status=action if legacy else msgspec.UNSET,
            id=actor_id if legacy else msgspec.UNSET,
            origin=attributes.get("image", "") if kind == "container" else msgspec.UNSET,
            type=kind,
            action=action,
            actor=EventActor(id=actor_id, attributes=dict(attributes)),
            time=now // NS,
            time_ns=now,
        )
        self._history.append(message)
        for subscriber in tuple(self._subscribers):
            subscriber.offer(message)

    def subscribe(
        self,
        since_ns: int | None = None,
        until_ns: int | None = None,
        filters: Mapping[str, Sequence[str]] | None = None,
    ) -> Subscription:
        """From now on, after a replay of what happened since `since_ns` (all of the known past if only `until_ns`
        is given and it is in the past). Registered before the call returns, so nothing in between is missed."""
        subscription = Subscription(self, until_ns, filters or {})
        replay = since_ns is not None or (until_ns is not None and until_ns < self.clock.now_ns())
        if replay:
            for message in self._history:
                if message.time_ns >= (since_ns or 0):
                    subscription.offer(message)
        self._subscribers.add(subscription)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """Forget a subscriber; idempotent."""
        self._subscribers.discard(subscription)

    def subscriber_count(self) -> int:
        """For debug output and leak checks."""
        return len(self._subscribers)
