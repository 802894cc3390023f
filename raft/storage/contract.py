"""What the node needs of a storage. Every call blocks; the node makes them from its one writer thread."""

from __future__ import annotations

from typing import Protocol

from raft.core.messages import Entry, HardState, Snapshot, Stored


class Storage(Protocol):
    def raft_id(self) -> int | None:
        """Whose log this is; None before `create`."""
        ...

    def create(self, raft_id: int, stored: Stored) -> None:
        """Write the first content: a founder's first membership, or nothing for one who joins."""
        ...

    def load(self) -> Stored:
        """Everything, verified. Raises StorageCorrupt naming the record; nothing is ever repaired silently."""
        ...

    def save(self, hard_state: HardState, snapshot: Snapshot | None, entries: tuple[Entry, ...]) -> None:
        """Durable when it returns, all or nothing. A snapshot replaces the log; then entries replace everything
        stored at their indexes and after."""
        ...

    def save_snapshot(self, snapshot: Snapshot, base_index: int, base_term: int, keep_old: int = 0) -> None:
        """Durable when it returns: an own snapshot; entries up to `base_index` are dropped, and of the snapshots before
        it all but the `keep_old` newest."""
        ...

    def close(self) -> None: ...
