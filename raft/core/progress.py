"""How far one peer is, as its leader sees it, and how much may be sent to it now.

PROBE: one Append at a time until the match is found. REPLICATE: optimistic, up to `inflight_max` on the way.
SNAPSHOT: nothing but heartbeats until the snapshot is acknowledged, reported or given up.
Invariant: match < next, and match only grows within a term.
"""

from __future__ import annotations

import enum
from collections import deque


class Flow(enum.Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    def __init__(self, next_index: int) -> None:
        self.match = 0
        self.next = next_index
        self.flow = Flow.PROBE
        self.silent = 0
        """Ticks since the peer was last heard."""
        self.pending_snapshot = 0
        self.snapshot_age = 0
        self._probe_sent = False
        self._inflight: deque[int] = deque()

    def may_send(self, inflight_max: int) -> bool:
        if self.flow is Flow.PROBE:
            return not self._probe_sent
        return self.flow is Flow.REPLICATE and len(self._inflight) < inflight_max

    def sent(self, last_index: int, count: int) -> None:
        """An Append with `count` entries ending at `last_index` is on its way."""
        if self.flow is Flow.PROBE:
            self._probe_sent = True
        elif count:
            self.next = last_index + 1
            self._inflight.append(last_index)

    def sent_snapshot(self, index: int) -> None:
        self._become(Flow.SNAPSHOT)
        self.pending_snapshot = index
        self.snapshot_age = 0

    def heard(self, inflight_max: int) -> None:
        """A heartbeat was answered: the link works, so a stalled flow may try once more."""
        self._probe_sent = False
        if len(self._inflight) >= inflight_max:
            self._inflight.popleft()

    def accepted(self, index: int, log_first: int) -> bool:
        """The peer's log equals ours up to `index`. Returns whether that is news."""
        self._probe_sent = False
        while self._inflight and self._inflight[0] <= index:
            self._inflight.popleft()
        news = index > self.match
        self.match = max(self.match, index)
        self.next = max(self.next, self.match + 1)
        if self.flow is Flow.PROBE or (self.flow is Flow.SNAPSHOT and self.match + 1 >= log_first):
            self._become(Flow.REPLICATE)
            self.next = self.match + 1
        return news

    def rejected(self, index: int, may_match: int) -> bool:
        """The peer has nothing that matches at `index`; try after `may_match`. False when it is an old answer."""
        if self.flow is Flow.SNAPSHOT or index <= self.match:
            return False
        if self.flow is Flow.PROBE and index != self.next - 1:
            return False
        self._become(Flow.PROBE)
        self.next = max(min(index, may_match + 1), self.match + 1)
        return True

    def unreachable(self) -> None:
        """What is on the way may be lost."""
        if self.flow is Flow.REPLICATE:
            self._become(Flow.PROBE)
            self.next = self.match + 1

    def snapshot_over(self, *, delivered: bool) -> None:
        """The transport finished with the snapshot, or it is given up."""
        if self.flow is Flow.SNAPSHOT:
            self._become(Flow.PROBE)
            self.next = max(self.match, self.pending_snapshot if delivered else 0) + 1

    def _become(self, flow: Flow) -> None:
        self.flow = flow
        self._probe_sent = False
        self._inflight.clear()
