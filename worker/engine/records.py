"""The engine's durable records: one SQLite file (WAL, synchronous=FULL), one writer thread, values in MessagePack.

A record is durable before the call that wrote it returns. Tables are plain key -> struct maps; what must change
together is written together (`write`), so a crash leaves either all of it or nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from api.errors import Internal
from base import faultpoint
from base.offload import Pool

T = TypeVar("T", bound=msgspec.Struct)

_encode = msgspec.msgpack.Encoder().encode


class Put(msgspec.Struct, frozen=True):
    """Write `value` under `key` of `table`, over what is there."""

    table: str
    key: str
    value: msgspec.Struct


class Delete(msgspec.Struct, frozen=True):
    """Remove `key` from `table`; nothing happens if it is not there."""

    table: str
    key: str


class Records:
    """`engine.db`. Parts of the engine own their tables by name: `containers`, `images`, `networks`, ..."""

    def __init__(self, path: Path) -> None:
        self._pool = Pool("engine-db", 1)
        self._path = path
        self._db: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open or create the file. Raises sqlite3.DatabaseError when it is damaged."""
        await self._pool.run(self._open)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(
            "CREATE TABLE IF NOT EXISTS record (kind TEXT, key TEXT, value BLOB NOT NULL, PRIMARY KEY (kind, key))"
            " WITHOUT ROWID"
        )
        self._db = db

    async def write(self, *changes: Put | Delete) -> None:
        """Make all changes in one transaction; on return they are on disk.

        Raises Internal, with what the disk or the file has, and nothing is changed then.
        """
        encoded = [
            (change.table, change.key, _encode(change.value) if isinstance(change, Put) else None) for change in changes
        ]
        await self._pool.run(self._write, encoded)

    def _write(self, changes: Sequence[tuple[str, str, bytes | None]]) -> None:
        assert self._db is not None, "records are not open"
        tables = [table for table, _, _ in changes]
        faultpoint.reach_records(tables, "before")
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for table, key, value in changes:
                if value is None:
                    self._db.execute("DELETE FROM record WHERE kind=? AND key=?", (table, key))
                else:
                    self._db.execute("INSERT OR REPLACE INTO record VALUES (?,?,?)", (table, key, value))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:  # a full disk has ended it already
                self._db.execute("ROLLBACK")
            raise Internal(f"{self._path}: {error}") from error
        faultpoint.reach_records(tables, "after")

    async def all(self, table: str, kind: type[T]) -> dict[str, T]:
        """Every record of a table, by key. Parts read once at start and keep their own view."""
        decode = msgspec.msgpack.Decoder(kind).decode
        rows = await self._pool.run(self._rows, table)
        return {key: decode(value) for key, value in rows}

    def _rows(self, table: str) -> list[tuple[str, bytes]]:
        assert self._db is not None, "records are not open"
        return self._db.execute("SELECT key, value FROM record WHERE kind=? ORDER BY key", (table,)).fetchall()

    async def close(self) -> None:
        """Close the file; later calls fail."""
        if self._db is not None:
            await self._pool.run(self._db.close)
            self._db = None
        self._pool.close()
