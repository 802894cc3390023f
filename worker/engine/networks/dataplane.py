"""The data plane of overlay networks and the routing mesh as one thing: what the managers say goes in, and a reconciler
sees to it that the kernel keeps saying the same.

A check compares everything every CHECK_S. What could not be written is tried again after RETRY_S. Tables of the host
that somebody deleted are noticed at once and are back within a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from api.errors import ShoalError
from api.types.dataplane import OverlayChange
from base.supervise import TaskOwner
from worker.engine.networks.guard import Guard
from worker.engine.networks.mesh import Mesh
from worker.engine.networks.overlays import Overlays, Report

log = logging.getLogger(__name__)

CHECK_S = 30.0
RETRY_S = 1.0
SETTLE_S = 0.1
"""After a deletion was noticed: who deletes one thing often deletes more."""

assert SETTLE_S < RETRY_S < CHECK_S


class DataPlane:
    """One per daemon."""

    def __init__(self, overlays: Overlays, mesh: Mesh, restore_rules: Callable[[], Awaitable[None]]) -> None:
        """`restore_rules`: writes the host's table of published ports anew if it is gone."""
        self._overlays = overlays
        self._mesh = mesh
        self._restore_rules = restore_rules
        self._disturbed = asyncio.Event()
        self._guard = Guard(self._disturbed.set)
        self._owner = TaskOwner("data-plane")
        self._behind = False
        """Something is not in the kernel yet."""

    def start(self) -> None:
        """Begin to keep the kernel right."""
        try:
            self._guard.open()
        except OSError as error:
            log.warning("deleted rules are found by the regular check only error=%s", error)
        self._owner.spawn(self._keep(), name="reconciler")

    async def close(self) -> None:
        """Stop watching; the kernel keeps what it has."""
        self._guard.close()
        await self._owner.close()

    async def apply(self, change: OverlayChange) -> bool:
        """What the managers say. Answers whether the kernel has all of it."""
        complete = await self._overlays.apply(change)
        complete &= await self._mesh.refresh()
        if complete and not self._behind:
            self._overlays.acknowledge()
        if not complete:
            self._behind = True
            self._disturbed.set()
        return complete

    async def check(self) -> Report:
        """Compare all with what the managers say, and repair it."""
        report = await self._overlays.check()
        try:
            wrong = await self._mesh.check()
        except (ShoalError, OSError) as error:
            report = replace(report, failures=(*report.failures, f"routing mesh: {error}"))
        else:
            if wrong:
                self._overlays.repaired += 1
                log.warning("data plane repaired what='routing mesh: %s'", wrong)
                report = replace(report, repairs=(*report.repairs, f"routing mesh: {wrong}"))
        for failure in report.failures:
            log.error("data plane not repaired what=%r", failure)
        self._behind = bool(report.failures)
        if not self._behind:
            self._overlays.acknowledge()
        return replace(report, applied_index=self._overlays.applied_index)

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if self._behind else CHECK_S):
                    await self._disturbed.wait()
            disturbed = self._disturbed.is_set()
            await asyncio.sleep(SETTLE_S)
            self._disturbed.clear()
            try:
                if disturbed and not self._behind:
                    await self._restore_rules()
                    await self._mesh.check()
                else:
                    await self.check()
            except (ShoalError, OSError) as error:
                log.error("data plane not checked error=%s", error)
                self._behind = True
