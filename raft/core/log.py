"""The replicated log as one member sees it: a snapshot, the entries after a base, and three marks.

Invariants: base <= snapshot.index <= commit <= last; handed <= commit; nothing at or below commit is ever cut off;
memberships follow appends and cuts in step. `stable` is the last index known to be on disk.
"""

from __future__ import annotations

from collections.abc import Sequence

from raft.core import membership
from raft.core.messages import Entry, EntryKind, Snapshot, Stored


class RaftLog:
    """Pure; persistence is what `take_unstable` hands out and `persisted` confirms."""

    def __init__(self, stored: Stored) -> None:
        self.snapshot = stored.snapshot
        self._base = stored.base_index
        self._base_term = stored.base_term
        self._entries: list[Entry] = list(stored.entries)
        self.history = membership.History(self.snapshot.index, self.snapshot.membership)
        for entry in self._entries:
            self._note_membership(entry)
        self.commit = max(stored.hard_state.commit, self.snapshot.index)
        assert self._base <= self.snapshot.index <= self.commit <= self.last
        self.handed = self.snapshot.index
        self.stable = self.last
        self._taken = self.last
        self._unsaved_snapshot: Snapshot | None = None

    @property
    def first(self) -> int:
        """The lowest index whose entry is held."""
        return self._base + 1

    @property
    def last(self) -> int:
        return self._base + len(self._entries)

    @property
    def last_term(self) -> int:
        return self._entries[-1].term if self._entries else self._base_term

    def term(self, index: int) -> int | None:
        """The term at `index`; None when it is compacted away or not there yet."""
        if index == self._base:
            return self._base_term
        if index < self._base or index > self.last:
            return None
        return self._entries[index - self._base - 1].term

    def slice(self, start: int, bytes_max: int) -> tuple[Entry, ...]:
        """Entries from `start` on, up to `bytes_max` of data but at least one when there is one."""
        assert start > self._base
        end = size = 0
        position = start - self._base - 1
        for end, entry in enumerate(self._entries[position : position + 1024], 1):
            size += len(entry.data)
            if size > bytes_max and end > 1:
                end -= 1
                break
        return tuple(self._entries[position : position + end])

    def no_newer_than(self, last_index: int, last_term: int) -> bool:
        """Is a log that ends so at least as up to date as this one (thesis §3.6.1)?"""
        return (self.last_term, self.last) <= (last_term, last_index)

    # Growing and cutting

    def append(self, term: int, kind: EntryKind, data: bytes) -> Entry:
        """The leader's own append."""
        entry = Entry(self.last + 1, term, kind, data)
        self._entries.append(entry)
        self._note_membership(entry)
        return entry

    def accept(self, prev_index: int, prev_term: int, entries: Sequence[Entry]) -> int | None:
        """A follower's append: cut what conflicts, add what is new (thesis §3.5).

        Returns the last index that now equals the leader's, or None when `prev` does not match.
        """
        if self.term(prev_index) != prev_term:
            return None
        for position, entry in enumerate(entries):
            if self.term(entry.index) == entry.term:
                continue
            if entry.index <= self.last:
                self._truncate(entry.index)
            for new in entries[position:]:
                self._entries.append(new)
                self._note_membership(new)
            break
        return prev_index + len(entries)

    def _truncate(self, index: int) -> None:
        assert index > self.commit, f"entry {index} conflicts with what is committed up to {self.commit}"
        del self._entries[index - self._base - 1 :]
        self.history.truncate(index)
        self.stable = min(self.stable, index - 1)
        self._taken = min(self._taken, index - 1)

    def _note_membership(self, entry: Entry) -> None:
        if entry.kind == EntryKind.CHANGE and entry.index > self.snapshot.index:
            self.history.append(entry.index, membership.decode(entry.data))

    def last_possible_match(self, index: int, term: int) -> tuple[int, int]:
        """The highest index <= `index` whose term is <= `term`, and its term (0 if compacted).

        Both sides skip whole terms with it instead of stepping back one entry at a time (thesis §3.5).
        """
        index = min(index, self.last)
        while index > self._base and (self.term(index) or 0) > term:
            index -= 1
        return index, self.term(index) or 0

    def commit_to(self, index: int) -> bool:
        """Everything up to `index` is committed. Returns whether that is news."""
        index = min(index, self.last)
        if index <= self.commit:
            return False
        self.commit = index
        return True

    # Snapshots

    def restore(self, snapshot: Snapshot) -> None:
        """Put a leader's snapshot in the place of the whole log."""
        assert snapshot.index > self.commit
        self.snapshot = self._unsaved_snapshot = snapshot
        self._base, self._base_term = snapshot.index, snapshot.term
        self._entries.clear()
        self.history = membership.History(snapshot.index, snapshot.membership)
        self.commit = self.handed = snapshot.index
        self.stable = self._taken = snapshot.index

    def compact(self, snapshot: Snapshot, keep: int) -> None:
        """An own snapshot is on disk: drop entries before it but for the last `keep` (for slow followers).

        Nothing happens when a newer snapshot came from the leader meanwhile.
        """
        if snapshot.index <= self.snapshot.index:
            return
        assert snapshot.index <= self.handed
        base = max(self._base, snapshot.index - keep)
        base_term = self.term(base)
        assert base_term is not None
        self.snapshot = snapshot
        self.history.compact(snapshot.index)
        del self._entries[: base - self._base]
        self._base, self._base_term = base, base_term

    def base_for(self, snapshot_index: int, keep: int) -> tuple[int, int]:
        """Index and term that `compact` would make the base: what storage records with the snapshot."""
        base = max(self._base, snapshot_index - keep)
        return base, self.term(base) or 0

    # What the shell takes

    def has_unstable(self) -> bool:
        return self._unsaved_snapshot is not None or self._taken < self.last

    def take_unstable(self) -> tuple[Snapshot | None, tuple[Entry, ...]]:
        """What must be persisted. Confirm with `persisted` before taking again."""
        start = self._taken + 1
        self._taken = self.last
        return self._unsaved_snapshot, tuple(self._entries[start - self._base - 1 :])

    def persisted(self, snapshot: Snapshot | None) -> None:
        """What was taken last is on disk (unless it was cut off since)."""
        if snapshot is not None and snapshot is self._unsaved_snapshot:
            self._unsaved_snapshot = None
        self.stable = max(self.stable, self._taken)

    def take_committed(self, limit: int) -> tuple[Entry, ...]:
        """Committed entries that were not handed out yet, at most `limit`."""
        start = self.handed - self._base
        entries = tuple(self._entries[start : min(self.commit - self._base, start + limit)])
        self.handed += len(entries)
        return entries
