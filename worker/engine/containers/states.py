"""The states of a container and the moves between them: one table, asserted at every write."""

from __future__ import annotations

import enum


class Status(enum.StrEnum):
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    """Between two runs: it ended, and its restart policy will start it again."""
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"
    """Its removal failed half way; it can only be removed."""


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.CREATED: frozenset({Status.RUNNING, Status.REMOVING}),
    Status.RUNNING: frozenset({Status.PAUSED, Status.RESTARTING, Status.EXITED}),
    Status.PAUSED: frozenset({Status.RUNNING, Status.RESTARTING, Status.EXITED}),
    Status.RESTARTING: frozenset({Status.RUNNING, Status.EXITED}),
    Status.EXITED: frozenset({Status.RUNNING, Status.RESTARTING, Status.REMOVING}),
    Status.REMOVING: frozenset({Status.DEAD}),
    Status.DEAD: frozenset({Status.REMOVING}),
}

WITH_PROCESS = frozenset({Status.RUNNING, Status.PAUSED})
LIVE = WITH_PROCESS | {Status.RESTARTING}
"""What Docker's `State.Running` covers: somebody has to stop it before it can go."""


def may_follow(before: Status, after: Status) -> bool:
    """True if a container may go from one state to the other; staying is always allowed."""
    return before == after or after in TRANSITIONS[before]
