"""The log at rest: nothing readable, nothing moved, keys that rotate; and a log that one member begins anew."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from raft.core.membership import Membership, decode, encode
from raft.core.messages import Entry, EntryKind, HardState, Snapshot, Stored, first_member
from raft.errors import StorageCorrupt
from raft.recovery import found_anew
from raft.storage.seal import KEY_BYTES, KeyRing
from raft.storage.sqlite import SqliteStorage

KEY = os.urandom(KEY_BYTES)
SECRET = b"SWMTKN-1-a secret"


def written(path: Path, ring: KeyRing) -> SqliteStorage:
    storage = SqliteStorage(path, ring)
    storage.create(7, first_member(7, "10.0.0.1:2377"))
    entries = tuple(Entry(index, 1, EntryKind.DATA, SECRET + b"%d" % index) for index in range(2, 6))
    storage.save(HardState(term=1, vote=7, commit=3), None, entries)
    return storage


def files(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))


def test_entries_and_snapshots_are_unreadable_on_disk_and_whole_when_loaded(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    storage = written(path, KeyRing({1: KEY}))
    snapshot = Snapshot(index=3, term=1, membership=Membership(voters={7: "10.0.0.1:2377"}), data=SECRET)
    storage.save_snapshot(snapshot, 2, 1)
    assert SECRET not in files(path)
    storage.close()
    again = SqliteStorage(path, KeyRing({1: KEY}))
    stored = again.load()
    again.close()
    assert stored.snapshot == snapshot
    assert [entry.data for entry in stored.entries] == [SECRET + b"%d" % index for index in range(3, 6)]


def test_another_key_or_a_record_in_another_place_is_corruption(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    written(path, KeyRing({1: KEY})).close()
    for ring, said in [(KeyRing({1: os.urandom(KEY_BYTES)}), "does not open"), (KeyRing({2: KEY}), "does not have")]:
        storage = SqliteStorage(path, ring)
        with pytest.raises(StorageCorrupt, match=said):
            storage.load()
        storage.close()
    ring = KeyRing({1: KEY})
    with pytest.raises(StorageCorrupt):
        ring.open(ring.seal(b"x", b"4 1 1"), b"5 1 1")


def test_a_rotated_key_seals_what_is_new_and_the_old_one_opens_what_is_old(tmp_path: Path) -> None:
    path, newer, ring = tmp_path / "raft.db", os.urandom(KEY_BYTES), KeyRing({1: KEY})
    storage = written(path, ring)
    ring.add(2, newer)
    storage.save(HardState(term=1, vote=7, commit=3), None, (Entry(6, 1, EntryKind.DATA, SECRET),))
    storage.close()
    both = KeyRing({1: KEY, 2: newer})
    again = SqliteStorage(path, both)
    assert again.load().entries[-1].data == SECRET
    assert both.opened == {1, 2}
    again.save_snapshot(Snapshot(index=5, term=1, data=b""), 5, 1)
    again.close()
    alone = SqliteStorage(path, KeyRing({2: newer}))
    assert alone.load().entries == (Entry(6, 1, EntryKind.DATA, SECRET),)
    alone.close()


@pytest.mark.parametrize(("keep", "kept"), [(0, 0), (2, 2)])
def test_as_many_old_snapshots_stay_as_were_asked_for(tmp_path: Path, keep: int, kept: int) -> None:
    path = tmp_path / "raft.db"
    storage = written(path, KeyRing({1: KEY}))
    for index in range(2, 6):
        storage.save_snapshot(Snapshot(index=index, term=1, data=b"%d" % index), index, 1, keep)
    storage.close()
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT name FROM records WHERE name GLOB 'old-*'").fetchall()
    database.close()
    assert len(rows) == kept


@pytest.mark.parametrize("by_snapshot", [False, True])
def test_a_log_begun_anew_has_one_voter_and_everything_it_had(tmp_path: Path, by_snapshot: bool) -> None:
    storage = SqliteStorage(tmp_path / "raft.db")
    three = Membership(voters={7: "a:1", 8: "b:1"}, learners={9: "c:1"}, removed=(3,))
    storage.create(7, Stored())
    entries = (Entry(1, 4, EntryKind.CHANGE, encode(three)), Entry(2, 4, EntryKind.DATA, b"may be acknowledged"))
    storage.save(HardState(term=5, vote=8, commit=1), None, entries)
    if by_snapshot:
        storage.save_snapshot(Snapshot(index=1, term=4, membership=three, data=b"state"), 1, 4)
    found_anew(storage, "d:1")
    stored = storage.load()
    assert stored.hard_state == HardState(term=6, vote=7, commit=3)
    assert stored.entries[-2] == entries[1]
    assert decode(stored.entries[-1].data) == Membership(voters={7: "d:1"}, removed=(3, 8, 9))
    storage.close()


def test_nothing_begins_anew_without_a_log(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "raft.db")
    with pytest.raises(StorageCorrupt, match="no raft log"):
        found_anew(storage, "a:1")
    storage.close()
