"""Which nodes are overdue. Pure bookkeeping on monotonic seconds.

A node is down when no heartbeat came for period times grace. A new leader has heard nobody yet: it grants every node
one full grace before it judges.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from base.clock import NS

DEFAULT_PERIOD_NS: Final = 5 * NS
GRACE: Final = 3
"""Heartbeats that may be missed."""


class Liveness:
    """Deadlines by node id."""

    def __init__(self) -> None:
        self._deadlines: dict[str, float] = {}

    def heard(self, node_id: str, now: float, period_s: float) -> None:
        self._deadlines[node_id] = now + period_s * GRACE

    def forget(self, node_id: str) -> None:
        self._deadlines.pop(node_id, None)

    def overdue(self, node_ids: Iterable[str], now: float, period_s: float) -> list[str]:
        """Those of the nodes whose deadline has passed; one never heard of gets its first deadline here."""
        late = []
        for node_id in node_ids:
            deadline = self._deadlines.setdefault(node_id, now + period_s * GRACE)
            if deadline <= now:
                late.append(node_id)
        return late
