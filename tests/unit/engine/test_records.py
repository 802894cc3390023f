"""The engine's records when the disk is full: the error says so, and the transaction is all or nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from api.errors import Internal
from worker.engine.records import Put, Records


class Thing(msgspec.Struct):
    text: str


async def test_a_full_disk_is_named_and_the_records_go_on_when_there_is_room_again(tmp_path: Path) -> None:
    records = Records(tmp_path / "engine.db")
    await records.open()
    database = records._db
    assert database is not None
    try:
        await records.write(Put("things", "before", Thing("x")))
        await records._pool.run(database.execute, "PRAGMA max_page_count = 4")
        with pytest.raises(Internal, match=r"engine\.db: database or disk is full"):
            await records.write(Put("things", "small", Thing("y")), Put("things", "large", Thing("z" * 100_000)))
        assert set(await records.all("things", Thing)) == {"before"}
        await records._pool.run(database.execute, "PRAGMA max_page_count = 1000")
        await records.write(Put("things", "small", Thing("y")))
        assert set(await records.all("things", Thing)) == {"before", "small"}
    finally:
        await records.close()
