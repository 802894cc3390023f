"""What the user of Raft brings (a state machine, settings) and gets back from a proposal."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from raft.core.limits import Limits


class StateMachine(Protocol):
    """What the log drives. Called on the event loop: must be quick, deterministic, and must not raise."""

    def apply(self, index: int, data: bytes) -> Any:
        """Apply one committed entry; what it returns is the proposer's result."""
        ...

    def snapshot(self) -> bytes:
        """The whole state as of the last applied entry."""
        ...

    def restore(self, index: int, data: bytes) -> None:
        """Replace the whole state; `index` is what it stands for."""
        ...


class RaftConfig(msgspec.Struct, frozen=True, kw_only=True):
    tick_s: float = 0.1
    limits: Limits = Limits()
    snapshot_interval: int = 10_000
    """Entries between two snapshots."""
    log_entries_for_slow_followers: int = 500
    """Entries that stay before a snapshot, so that a follower a little behind needs none."""
    keep_old_snapshots: int = 0
    """Snapshots that stay on disk beside the newest."""
    catch_up_timeout_s: float = 60.0
    """How long `promote` waits for a learner."""


class Applied(msgspec.Struct, frozen=True):
    index: int
    result: Any
