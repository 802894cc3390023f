"""The Raft log in SQLite: WAL, synchronous=FULL, one transaction for everything that one `Ready` persists.

Invariants: when `save` returns, what it wrote is on disk; each record carries a checksum over its index and content,
and the state record names the last index, so that a flipped bit, a lost row and a lost tail are all found when
the log is loaded. What is corrupt is reported, never cut off: the member may have voted or acknowledged on it.
Entries and snapshots are sealed (raft/storage/seal.py), each bound to its place; the checksum is over what is on disk.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import msgspec

from raft.core.messages import Entry, EntryKind, HardState, Snapshot, Stored
from raft.errors import StorageCorrupt
from raft.storage.seal import Plain, Sealer

T = TypeVar("T")
FORMAT = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, kind INTEGER NOT NULL, data BLOB NOT NULL, sum BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS records (name TEXT PRIMARY KEY, data BLOB NOT NULL, sum BLOB NOT NULL);
"""
SNAPSHOT = "snapshot"
OLD_SNAPSHOT, OLD_SNAPSHOTS = "old-snapshot-{:012}", "old-snapshot-*"
_PUT = "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET data = excluded.data, sum = excluded.sum"


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """One record: what must agree with the entries beside it."""

    format: int = FORMAT
    raft_id: int
    hard_state: HardState = HardState()
    base_index: int = 0
    base_term: int = 0
    last_index: int = 0


def _place(index: int, term: int, kind: int) -> bytes:
    return b"%d %d %d" % (index, term, kind)


def _sum(*parts: object) -> bytes:
    digest = blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()


class SqliteStorage:
    """A member's log in one file. Satisfies `raft.storage.contract.Storage`; used by one thread at a time."""

    def __init__(self, path: Path, sealer: Sealer | None = None) -> None:
        """Open or make the file (its folder must exist). Raises StorageCorrupt when it is no database.

        `sealer` encrypts entries and snapshots; without one they are plain.
        """
        self.path = path
        self._sealer = sealer or Plain()
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with self._reading():
                self._db.execute("PRAGMA journal_mode=WAL").close()
                self._db.execute("PRAGMA synchronous=FULL").close()
                self._db.executescript(_SCHEMA).close()
                self._state = self._load_state()
        except BaseException:
            self._db.close()
            raise

    def raft_id(self) -> int | None:
        return None if self._state is None else self._state.raft_id

    def create(self, raft_id: int, stored: Stored) -> None:
        assert self._state is None, "the log has an owner"
        assert stored.snapshot.index == 0
        state = _State(raft_id=raft_id)
        with self._transaction():
            self._save(state, stored.hard_state, None, stored.entries)

    def load(self) -> Stored:
        with self._reading():
            self._state = state = self._load_state()
            assert state is not None, "load comes after create"
            snapshot = self._load_record(SNAPSHOT, Snapshot, self._sealer) or Snapshot()
            entries = tuple(self._load_entries(state))
        if not state.base_index <= snapshot.index <= state.last_index:
            raise StorageCorrupt(f"{self.path}: the snapshot at {snapshot.index} does not belong to the log")
        if state.hard_state.commit > state.last_index:
            raise StorageCorrupt(f"{self.path}: committed up to {state.hard_state.commit}, past the log's end")
        return Stored(
            hard_state=state.hard_state,
            snapshot=snapshot,
            base_index=state.base_index,
            base_term=state.base_term,
            entries=entries,
        )

    def save(self, hard_state: HardState, snapshot: Snapshot | None, entries: tuple[Entry, ...]) -> None:
        assert self._state is not None
        with self._transaction():
            self._save(self._state, hard_state, snapshot, entries)

    def save_snapshot(self, snapshot: Snapshot, base_index: int, base_term: int, keep_old: int = 0) -> None:
        assert self._state is not None
        with self._transaction():
            self._db.execute("DELETE FROM entries WHERE idx <= ?", (base_index,)).close()
            self._keep_old(keep_old)
            self._put(SNAPSHOT, snapshot, self._sealer)
            self._put_state(msgspec.structs.replace(self._state, base_index=base_index, base_term=base_term))

    def close(self) -> None:
        self._db.close()

    def _save(
        self, state: _State, hard_state: HardState, snapshot: Snapshot | None, entries: tuple[Entry, ...]
    ) -> None:
        if snapshot is not None:
            self._db.execute("DELETE FROM entries").close()
            self._put(SNAPSHOT, snapshot, self._sealer)
            state = msgspec.structs.replace(
                state, base_index=snapshot.index, base_term=snapshot.term, last_index=snapshot.index
            )
        last = state.last_index
        if entries:
            assert entries[0].index <= last + 1, "a gap in the log"
            if entries[0].index <= last:
                self._db.execute("DELETE FROM entries WHERE idx >= ?", (entries[0].index,)).close()
            self._db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", map(self._row, entries)).close()
            last = entries[-1].index
        self._put_state(msgspec.structs.replace(state, hard_state=hard_state, last_index=last))

    def _row(self, entry: Entry) -> tuple[int, int, int, bytes, bytes]:
        index, term, kind = entry.index, entry.term, int(entry.kind)
        data = self._sealer.seal(entry.data, _place(index, term, kind))
        return index, term, kind, data, _sum(index, term, kind, data)

    def _keep_old(self, count: int) -> None:
        """Lay the present snapshot aside, and forget all but the `count` newest of those."""
        old = OLD_SNAPSHOT.format(self._snapshot_number())
        if count:
            # Sealed for its first name, and never read by the daemon: an operator's copy, at the cost of its bytes.
            self._db.execute(
                "INSERT OR REPLACE INTO records SELECT ?, data, sum FROM records WHERE name = ?", (old, SNAPSHOT)
            ).close()
        keep = "SELECT name FROM records WHERE name GLOB ? ORDER BY name DESC LIMIT ?"
        self._db.execute(
            f"DELETE FROM records WHERE name GLOB ? AND name NOT IN ({keep})", (OLD_SNAPSHOTS, OLD_SNAPSHOTS, count)
        ).close()

    def _snapshot_number(self) -> int:
        """One more than the newest snapshot that was laid aside."""
        query = "SELECT name FROM records WHERE name GLOB ? ORDER BY name DESC LIMIT 1"
        with closing(self._db.execute(query, (OLD_SNAPSHOTS,))) as rows:
            row = rows.fetchone()
        return int(row[0].rpartition("-")[2]) + 1 if row else 1

    def _put_state(self, state: _State) -> None:
        # Not sealed: whether a file has an owner must be known before its key is; terms and votes are no secrets.
        self._put("state", state, None)
        self._next_state = state

    def _put(self, name: str, value: msgspec.Struct, sealer: Sealer | None) -> None:
        data = msgspec.msgpack.encode(value)
        if sealer is not None:
            data = sealer.seal(data, name.encode())
        self._db.execute(_PUT, (name, data, _sum(name, data))).close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; `_state` follows only what was committed."""
        self._db.execute("BEGIN IMMEDIATE").close()
        try:
            yield
            self._db.execute("COMMIT").close()
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK").close()
            raise
        self._state = self._next_state

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError:
            raise  # full disk, permissions, lock: not a matter of the content
        except sqlite3.DatabaseError as error:
            raise StorageCorrupt(f"{self.path}: {error}") from error

    def _load_state(self) -> _State | None:
        state = self._load_record("state", _State, None)
        if state is None:
            with closing(self._db.execute("SELECT 1 FROM entries UNION ALL SELECT 1 FROM records LIMIT 1")) as rows:
                if rows.fetchone() is not None:
                    raise StorageCorrupt(f"{self.path}: the raft state record is missing")
            return None
        if state.format != FORMAT:
            raise StorageCorrupt(f"{self.path}: format {state.format} is not known to this version")
        return state

    def _load_record(self, name: str, kind: type[T], sealer: Sealer | None) -> T | None:
        with closing(self._db.execute("SELECT data, sum FROM records WHERE name = ?", (name,))) as rows:
            row = rows.fetchone()
        if row is None:
            return None
        data, checksum = row
        if _sum(name, data) != checksum:
            raise StorageCorrupt(f"{self.path}: the raft {name} record fails its checksum")
        if sealer is not None:
            data = sealer.open(data, name.encode())
        return msgspec.msgpack.decode(data, type=kind)

    def _load_entries(self, state: _State) -> Iterator[Entry]:
        expected = state.base_index
        with closing(self._db.execute("SELECT idx, term, kind, data, sum FROM entries ORDER BY idx")) as rows:
            for index, term, kind, data, checksum in rows:
                expected += 1
                if index != expected:
                    raise StorageCorrupt(f"{self.path}: raft entry {expected} is missing")
                if _sum(index, term, kind, data) != checksum or kind not in set(EntryKind):
                    raise StorageCorrupt(f"{self.path}: raft entry {index} fails its checksum")
                yield Entry(index, term, EntryKind(kind), self._sealer.open(data, _place(index, term, kind)))
        if expected != state.last_index:
            raise StorageCorrupt(f"{self.path}: raft entry {expected + 1} is missing")
