"""One lock a key: what is done to one thing is done in turn, and different things do not wait for each other."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class KeyedLocks:
    """Locks that live as long as somebody holds them or waits for them."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, key: str) -> asyncio.Lock:
        """Use it at once, as `async with locks.of(key):`."""
        return self._locks.setdefault(key, asyncio.Lock())
