"""Keeps a node's certificate fresh: at a random point in 50-80 % of its life, and at once when the role changed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from api.errors import ShoalError
from base.clock import NS, Clock
from ca.identity import Identity

log = logging.getLogger(__name__)

EARLIEST, LATEST = 0.5, 0.8
"""Of the certificate's life: random, so that nodes that joined together don't renew together."""
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 60.0
SLEEP_MAX_S = 3600.0
"""The wall clock may jump: look again at least this often."""
assert 0 < EARLIEST < LATEST < 1


def renewal_at(issued_ns: int, expires_ns: int, chance: float) -> int:
    """When to renew (ns since the epoch). `chance` is in [0, 1)."""
    return issued_ns + int((expires_ns - issued_ns) * (EARLIEST + (LATEST - EARLIEST) * chance))


def retry_after_s(failures: int) -> float:
    """How long to wait after the n-th failure in a row."""
    return min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(failures - 1, 16))


class Renewer:
    """Owned by the node; `run()` returns only when cancelled."""

    def __init__(
        self,
        identity: Identity,
        renew: Callable[[Identity], Awaitable[Identity]],
        renewed: Callable[[Identity], Awaitable[None]],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """
        Args:
            renew: asks a manager (`ca.client.renew` with an address).
            renewed: stores the new identity and makes servers and channels use it.
        """
        self.identity = identity
        self._renew = renew
        self._renewed = renewed
        self._clock = clock
        self._rng = rng
        self._wanted_role = identity.role
        self._wake = asyncio.Event()
        self._due_ns = self._plan()

    def role_wanted(self, role: str) -> None:
        """The role that the swarm says the node should have (`SessionMessage.role`)."""
        if role != self._wanted_role:
            self._wanted_role = role
            self._wake.set()

    def renew_now(self) -> None:
        """Whatever the certificate's age."""
        self._due_ns = 0
        self._wake.set()

    async def run(self) -> None:
        failures = 0
        while True:
            await self._sleep(retry_after_s(failures) if failures else self._until_due_s())
            if not failures and self._until_due_s() > 0:
                continue
            try:
                self.identity = await self._renew(self.identity)
            except ShoalError as error:
                failures += 1
                log.warning("certificate not renewed failures=%d error=%s", failures, error)
                continue
            self._due_ns = self._plan()
            await self._renewed(self.identity)
            log.info("certificate renewed node_id=%s role=%s", self.identity.node_id, self.identity.role)
            # A manager that lags behind may still give the old role: ask again, but not in a tight loop.
            failures = 0 if self.identity.role == self._wanted_role else failures + 1

    def _plan(self) -> int:
        return renewal_at(self.identity.issued_ns, self.identity.expires_ns, self._rng.random())

    def _until_due_s(self) -> float:
        if self._wanted_role != self.identity.role:
            return 0.0
        return max(0.0, (self._due_ns - self._clock.now_ns()) / NS)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(seconds, SLEEP_MAX_S)):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
