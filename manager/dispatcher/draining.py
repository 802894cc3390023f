"""Who has heard of what: a task is told to stop only when nobody sends it new connections any more.

A node's stream looks at the store, sends what changed, and the node acknowledges the index once its kernel has it. The
order to stop a serving task is held back until every node has acknowledged the change that took the task out of its
tables, and not for longer than HOLD_S: a node that hangs can't keep a service from being updated.

A leader that is new knows of no acknowledgement, and the nodes are still on their way to it: for the first SETTLE_S of
its time it waits for nodes that should have a stream and have none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from api.types.objects import Task, TaskState
from manager.dispatcher.signals import Signal

log = logging.getLogger(__name__)

HOLD_S = 5.0
"""Long enough for a node whose disk is overloaded; one that hangs is down, and waited for no more, after three missed
heartbeats."""
SETTLE_S = 5.0
"""Nodes find a new leader sooner than that (worker/agent/limits.py: attempts come a second apart at most)."""
LINGER_S = 0.2
"""From then on until the order goes out: a packet that was sent to the task just before is on its way for tens of
milliseconds where processors are overloaded."""
POLL_S = 0.03
"""How often a held order is looked at again."""


@dataclass
class Progress:
    """One node's stream. `signal`: due while it has not looked at what concerns it; `looked`: the index its last
    comparison saw; `sent`: of the last message with networks in it; `acknowledged`: the highest one the node has
    confirmed."""

    signal: Signal | None = None
    looked: int = 0
    sent: int = 0
    acknowledged: int = 0

    def has(self, index: int) -> bool:
        """Whether the node acts on everything up to `index`, which every signal has been told of."""
        nothing_new = self.signal is not None and not self.signal.due
        return (self.looked >= index or nothing_new) and self.acknowledged >= self.sent


class Draining:
    """The streams of this time as leader, by node, and the orders that wait for them."""

    def __init__(self, begun_s: float) -> None:
        """`begun_s`: when this time as leader began."""
        self._settled_s = begun_s + SETTLE_S
        self._progress: dict[str, Progress] = {}
        self._since: dict[str, float] = {}
        """Task id to when its order was first held."""
        self._heard: dict[str, float] = {}
        """Task id to when everybody was first seen to have the change."""

    def open(self, node_id: str, signal: Signal | None = None) -> Progress:
        """A node's stream begins; what an earlier one was waited for is forgotten."""
        progress = self._progress[node_id] = Progress(signal)
        return progress

    def close(self, node_id: str, progress: Progress) -> None:
        """The stream ended."""
        if self._progress.get(node_id) is progress:
            del self._progress[node_id]

    def acknowledge(self, node_id: str, index: int) -> None:
        progress = self._progress.get(node_id)
        if progress is not None:
            progress.acknowledged = max(progress.acknowledged, index)

    def holds(self, old: Task | None, new: Task, now_s: float, nodes: Iterable[str]) -> bool:
        """Whether the order `new`, that follows `old` on its node, has to wait.

        Args:
            nodes: those that are up; one without a stream can't say what it has heard, and is waited for as well.
        """
        stops = old is not None and old.desired_state <= TaskState.RUNNING < new.desired_state
        if not stops or not new.networks or new.status.state is not TaskState.RUNNING:
            self._forget(new.id)
            return False
        since = self._since.setdefault(new.id, now_s)
        if now_s < max(since + HOLD_S, self._settled_s):
            if not self._everyone_has(new.meta.version, nodes):
                return True
            if now_s < self._heard.setdefault(new.id, now_s) + LINGER_S:
                return True
        elif not self._everyone_has(new.meta.version, nodes):
            log.warning("task is told to stop though some nodes did not say that they know task=%s", new.id)
        self._forget(new.id)
        return False

    def _forget(self, task_id: str) -> None:
        self._since.pop(task_id, None)
        self._heard.pop(task_id, None)

    def _everyone_has(self, index: int, nodes: Iterable[str]) -> bool:
        known = [self._progress.get(node_id) for node_id in {*nodes, *self._progress}]
        return all(each is not None and each.has(index) for each in known)
