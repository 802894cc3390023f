"""Virtual time and a network that loses, delays, reorders, duplicates and partitions. Time is in milliseconds."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Faults:
    """What one seed does to its world; rates are chances per message, or events a second."""

    loss: float
    duplicate: float
    slow: float
    latency_ms: float
    disk_ms: float
    disk_stall: float
    crashes_per_s: float
    partitions_per_s: float
    changes_per_s: float
    hunts_per_s: float
    """Crashes of the leader, and cuts between it and most others: what makes logs part ways."""
    spurious_per_s: float
    """Connection breaks, unreachable reports and leadership transfers out of nowhere."""

    @staticmethod
    def draw(rng: Random) -> Faults:
        return Faults(
            loss=rng.choice([0, 0, 0.02, 0.1, 0.3]),
            duplicate=rng.choice([0, 0.02, 0.2]),
            slow=rng.choice([0, 0.02, 0.2]),
            latency_ms=rng.choice([1, 5, 40]),
            disk_ms=rng.choice([1, 5, 50]),
            disk_stall=rng.choice([0, 0, 0.02]),
            crashes_per_s=rng.choice([0, 0.1, 0.5, 1.5]),
            partitions_per_s=rng.choice([0, 0.2, 1]),
            changes_per_s=rng.choice([0, 0.3, 2]),
            hunts_per_s=rng.choice([0, 0.3, 1]),
            spurious_per_s=rng.choice([0, 0, 2]),
        )


CALM = Faults(
    loss=0,
    duplicate=0,
    slow=0,
    latency_ms=2,
    disk_ms=2,
    disk_stall=0,
    crashes_per_s=0,
    partitions_per_s=0,
    changes_per_s=0,
    hunts_per_s=0,
    spurious_per_s=0,
)


class World:
    def __init__(self, rng: Random, faults: Faults) -> None:
        self.rng = rng
        self.faults = faults
        self.now = 0.0
        self.steps = 0
        self.blocked: set[tuple[int, int]] = set()
        """Pairs (from, to) through which nothing goes: one way is possible."""
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def later(self, delay_ms: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + delay_ms, next(self._numbers), action))

    def run_until(self, end_ms: float, *, done: Callable[[], bool] = lambda: False) -> bool:
        """Play events until `end_ms` or until `done`. Returns whether it was done."""
        while self._heap and self._heap[0][0] <= end_ms:
            self.now, _, action = heapq.heappop(self._heap)
            self.steps += 1
            action()
            if done():
                return True
        self.now = end_ms
        return False

    def carry(self, sender: int, to: int, deliver: Callable[[], None]) -> bool:
        """Send something; False when it is lost for sure."""
        if (sender, to) in self.blocked or self.rng.random() < self.faults.loss:
            return False
        copies = 2 if self.rng.random() < self.faults.duplicate else 1
        for _ in range(copies):
            delay = self.rng.expovariate(1 / self.faults.latency_ms)
            if self.rng.random() < self.faults.slow:
                delay += self.rng.uniform(0, 3000)
            self.later(delay, deliver)
        return True

    def disk_delay(self) -> float:
        if self.rng.random() < self.faults.disk_stall:
            return self.rng.uniform(0, 3000)
        return self.rng.expovariate(1 / self.faults.disk_ms)

    def partition(self, ids: list[int]) -> None:
        """Cut some pairs off, in one of several shapes."""
        shape = self.rng.choice(["halves", "alone", "deaf", "mute", "random"])
        self.blocked.clear()
        some = set(self.rng.sample(ids, self.rng.randint(1, len(ids))))
        one = self.rng.choice(ids)
        for a, b in itertools.permutations(ids, 2):
            cut = {
                "halves": (a in some) != (b in some),
                "alone": one in (a, b),
                "deaf": b == one,
                "mute": a == one,
                "random": self.rng.random() < 0.4,
            }[shape]
            if cut:
                self.blocked.add((a, b))
