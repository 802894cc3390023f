"""Where to look for a dispatcher next: pure choice among the managers this node knows."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from api.errors import Forbidden, ShoalError
from worker.agent.limits import BACKOFF_FIRST_S, BACKOFF_MAX_S

_LEADER = re.compile(r"leader\b[^\n]*?(\[[0-9a-fA-F:]+\]:\d{1,5}|[A-Za-z0-9][A-Za-z0-9.-]*:\d{1,5})")


def leader_hint(message: str) -> str:
    """The `host:port` of the leader that a follower's refusal names; empty if it names none."""
    match = _LEADER.search(message)
    return match.group(1) if match else ""


def dismissed(error: ShoalError) -> bool:
    """Whether a manager says that this node was removed from the swarm: its tasks run elsewhere, or nowhere."""
    return isinstance(error, Forbidden) and error.message.endswith(" was removed from the swarm")


def choose(known: Sequence[str], seeds: Sequence[str], failed: str, rng: random.Random) -> str:
    """An address to try: a known manager, a seed while none is known; not the one that failed just now if there is
    another. Empty when there is none at all."""
    candidates = list(dict.fromkeys(known or seeds))
    others = [addr for addr in candidates if addr != failed] or candidates
    return rng.choice(others) if others else ""


def backoff_s(failures: int, rng: random.Random) -> float:
    """How long to wait before the next try, after `failures` in a row (full jitter)."""
    ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(max(failures - 1, 0), 16))
    return ceiling * rng.random()
