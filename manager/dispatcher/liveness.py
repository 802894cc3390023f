"""Which nodes are overdue. Pure bookkeeping on monotonic seconds.

A node is down when no heartbeat came for period times grace. A new leader has heard nobody yet: it grants every node
one full grace before it judges. Time in which the manager itself was away (stopped, starved, its machine asleep) is
counted against nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from base.clock import NS

DEFAULT_PERIOD_NS: Final = 5 * NS
GRACE: Final = 3
"""Heartbeats that may be missed."""
AWAY_S: Final = 2.0
"""Looks come every half second; after a longer gap than this it was us who were away."""


class Liveness:
    """Deadlines by node id."""

    def __init__(self) -> None:
        self._deadlines: dict[str, float] = {}
        self._looked: float | None = None

    def heard(self, node_id: str, now: float, period_s: float) -> None:
        self._deadlines[node_id] = now + period_s * GRACE

    def forget(self, node_id: str) -> None:
        self._deadlines.pop(node_id, None)

    def overdue(self, node_ids: Iterable[str], now: float, period_s: float) -> list[str]:
        """Those of the nodes whose deadline has passed; one never heard of gets its first deadline here."""
        away = now - self._looked if self._looked is not None else 0.0
        self._looked = now
        if away > AWAY_S:
            self._deadlines = {node_id: deadline + away for node_id, deadline in self._deadlines.items()}
        late = []
        for node_id in node_ids:
            deadline = self._deadlines.setdefault(node_id, now + period_s * GRACE)
            if deadline <= now:
                late.append(node_id)
        return late
