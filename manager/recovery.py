"""What is done to a manager's state while no manager runs on it: a swarm begun anew by one of its managers.

The other managers' records are put right by the leader (`Membership._settle_former`): they become workers.
"""

from __future__ import annotations

from pathlib import Path

from api.errors import NotFound
from base.clock import Clock
from manager.manager import LOG_FILE, raft_keys
from raft import recovery
from raft.storage.sqlite import SqliteStorage


def check_log(state_dir: Path, clock: Clock) -> int:
    """Read the whole log, with checksums and keys; returns its last index. Blocks; raises as `found_anew`."""
    storage = SqliteStorage(state_dir / LOG_FILE, raft_keys(state_dir, clock).ring)
    try:
        if storage.raft_id() is None:
            raise NotFound("the raft log is empty: this node has not become a manager yet")
        stored = storage.load()
    finally:
        storage.close()
    return stored.entries[-1].index if stored.entries else stored.base_index


def found_anew(state_dir: Path, addr: str, clock: Clock) -> None:
    """Make the owner of this state the only manager, at `addr`. Durable on return; blocks.

    Raises what the log is broken by, and Unavailable when its key is missing; nothing is changed then.
    """
    storage = SqliteStorage(state_dir / LOG_FILE, raft_keys(state_dir, clock).ring)
    try:
        recovery.found_anew(storage, addr)
    finally:
        storage.close()
