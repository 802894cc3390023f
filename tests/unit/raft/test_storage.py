"""The SQLite log: what it gives back, what it survives, and what it must find."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from raft.core.membership import Membership
from raft.core.messages import Entry, EntryKind, HardState, Snapshot, Stored, first_member
from raft.errors import StorageCorrupt
from raft.storage.sqlite import SqliteStorage


def entry(index: int, term: int = 1) -> Entry:
    return Entry(index, term, EntryKind.DATA, f"data {index} of {term}".encode())


def filled(path: Path) -> SqliteStorage:
    """Member 7 with entries 1 to 5 of term 1."""
    storage = SqliteStorage(path)
    storage.create(7, Stored())
    storage.save(HardState(term=1, vote=7, commit=3), None, tuple(entry(index) for index in range(1, 6)))
    return storage


def spoil(path: Path, statement: str) -> None:
    with sqlite3.connect(path, isolation_level=None) as database:
        assert database.execute(statement).rowcount > 0
    database.close()


def test_what_was_saved_is_loaded_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    storage = SqliteStorage(path)
    assert storage.raft_id() is None
    storage.create(7, first_member(7, "10.0.0.1:2377"))
    storage.save(HardState(term=2, vote=9, commit=1), None, (entry(2, 2),))
    storage.close()
    again = SqliteStorage(path)
    assert again.raft_id() == 7
    stored = again.load()
    assert stored.hard_state == HardState(term=2, vote=9, commit=1)
    assert stored.entries == (*first_member(7, "10.0.0.1:2377").entries, entry(2, 2))
    again.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_entries_replace_everything_from_their_first_index_on(tmp_path: Path) -> None:
    storage = filled(tmp_path / "raft.db")
    storage.save(HardState(term=2, commit=3), None, (entry(4, 2),))
    assert storage.load().entries == (entry(1), entry(2), entry(3), entry(4, 2))
    storage.close()


def test_an_own_snapshot_drops_entries_up_to_its_base(tmp_path: Path) -> None:
    storage = filled(tmp_path / "raft.db")
    snapshot = Snapshot(index=4, term=1, membership=Membership(voters={7: "a"}), data=b"state")
    storage.save_snapshot(snapshot, 2, 1)
    stored = storage.load()
    assert (stored.base_index, stored.base_term, stored.snapshot) == (2, 1, snapshot)
    assert stored.entries == (entry(3), entry(4), entry(5))
    storage.close()


def test_a_leaders_snapshot_replaces_the_log(tmp_path: Path) -> None:
    storage = filled(tmp_path / "raft.db")
    snapshot = Snapshot(index=50, term=3, data=b"state")
    storage.save(HardState(term=4, commit=51), snapshot, (entry(51, 4),))
    stored = storage.load()
    assert (stored.base_index, stored.base_term) == (50, 3)
    assert stored.entries == (entry(51, 4),)
    storage.close()


def test_a_failing_save_changes_nothing(tmp_path: Path) -> None:
    storage = filled(tmp_path / "raft.db")
    before = storage.load()
    unstorable = Entry(7, 2, EntryKind.DATA, "text")  # type: ignore[arg-type]
    storage._db.execute(
        "CREATE TRIGGER full BEFORE INSERT ON entries WHEN NEW.idx = 7 BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with pytest.raises(sqlite3.DatabaseError, match="full"):
        storage.save(HardState(term=2, vote=3), None, (entry(4, 2), entry(5, 2), entry(6, 2), unstorable))
    assert storage.load() == before
    storage.save(HardState(term=2, vote=3), None, (entry(6, 2),))
    assert storage.load().entries[-1] == entry(6, 2)
    storage.close()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE entries SET data = 'Data 3 of 1' WHERE idx = 3", "raft entry 3 fails its checksum"),
        ("UPDATE entries SET term = 2 WHERE idx = 3", "raft entry 3 fails its checksum"),
        ("UPDATE entries SET sum = x'00' WHERE idx = 5", "raft entry 5 fails its checksum"),
        ("DELETE FROM entries WHERE idx = 2", "raft entry 2 is missing"),
        ("DELETE FROM entries WHERE idx = 1", "raft entry 1 is missing"),
        ("DELETE FROM entries WHERE idx = 5", "raft entry 5 is missing"),
        ("DELETE FROM records WHERE name = 'state'", "the raft state record is missing"),
        (
            "UPDATE records SET data = CAST(data || x'00' AS BLOB) WHERE name = 'state'",
            "the raft state record fails its checksum",
        ),
    ],
)
def test_corruption_is_named_and_never_repaired(tmp_path: Path, statement: str, message: str) -> None:
    path = tmp_path / "raft.db"
    filled(path).close()
    spoil(path, statement)
    for _ in range(2):  # the first look must not have changed anything
        with pytest.raises(StorageCorrupt, match=message):
            SqliteStorage(path).load()


def test_a_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    path.write_bytes(b"not a database at all, but long enough to look" * 100)
    with pytest.raises(StorageCorrupt):
        SqliteStorage(path)


_WRITER = """
import sys
from pathlib import Path
from raft.core.messages import Entry, EntryKind, HardState, Stored
from raft.storage.sqlite import SqliteStorage
storage = SqliteStorage(Path(sys.argv[1]))
storage.create(7, Stored())
for index in range(1, 100000):
    storage.save(HardState(term=index, vote=7), None, (Entry(index, index, EntryKind.DATA, b"x" * 500),))
    sys.stdout.write(f"{index}\\n")
    sys.stdout.flush()
"""


def test_everything_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert writer.stdout is not None
    acknowledged = 0
    with writer:
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged == 40:
                writer.send_signal(signal.SIGKILL)
    storage = SqliteStorage(path)
    stored = storage.load()
    storage.close()
    assert len(stored.entries) - acknowledged in (0, 1)
    assert stored.hard_state.term == len(stored.entries)
