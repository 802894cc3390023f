"""Reading json-file logs: selection, rotation, following, damage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from base.offload import Pool
from worker.engine.logs.jsonfile import JsonFileLog
from worker.engine.logs.reader import LogLine, parse_entry, read_logs

SECOND = 1_000_000_000


def write(path: Path, *numbers: int, stream: str = "stdout") -> None:
    with path.open("a") as file:
        for number in numbers:
            file.write(f'{{"log":"{number}\\n","stream":"{stream}","time":"1970-01-01T00:00:{number:02}Z"}}\n')


async def lines_of(path: Path, **options: Any) -> AsyncIterator[LogLine]:
    """One by one."""
    async for some in read_logs(path, **options):
        for line in some:
            yield line


async def read(path: Path, **options: object) -> list[int]:
    return [int(line.data) async for line in lines_of(path, **options)]


async def test_all_in_order_from_the_oldest_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path.with_name("log.2"), 1)
    write(path.with_name("log.1"), 2, 3)
    write(path, 4)
    assert await read(path) == [1, 2, 3, 4]
    pool = Pool("logs", 1)
    assert await read(path, pool=pool) == [1, 2, 3, 4]
    pool.close()


async def test_selection(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path.with_name("log.1"), 1, 2)
    write(path, 3, 4)
    write(path, 5, stream="stderr")
    assert await read(path, tail=2) == [4, 5]
    assert await read(path, tail=0) == []
    assert await read(path, tail=3) == [3, 4, 5]
    assert await read(path, tail=99) == [1, 2, 3, 4, 5]
    assert await read(path, since_ns=3 * SECOND) == [3, 4, 5]
    assert await read(path, until_ns=2 * SECOND) == [1, 2]
    assert await read(path, until_ns=4 * SECOND, tail=1) == [4]
    assert await read(path, streams=["stderr"]) == [5]
    assert await read(path, streams=["stdout"], tail=1) == [4]
    assert await read(tmp_path / "none") == []


async def test_the_last_lines_are_found_over_chunks_and_files_and_followed_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFileLog(str(path), max_bytes=600_000, max_files=9)
    for number in range(30_000):
        log.write(1, f"{number}\n".encode())
    assert path.with_name("log.3").exists()
    for tail in (0, 1, 5_000, 29_999, 30_000, 99_999):
        assert await read(path, tail=tail) == list(range(max(0, 30_000 - tail), 30_000))
    ended = asyncio.Event()
    lines = lines_of(path, follow=True, tail=2, ended=ended)
    assert [int((await anext(lines)).data) for _ in range(2)] == [29_998, 29_999]
    log.write(1, b"30000\n")
    ended.set()
    assert [int(line.data) async for line in lines] == [30_000]
    log.close()


async def test_a_line_half_written_when_the_last_are_sought_comes_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, 1)
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(whole[:20])
    ended = asyncio.Event()
    lines = lines_of(path, follow=True, tail=1, ended=ended)
    assert int((await anext(lines)).data) == 1
    with path.open("ab") as file:
        file.write(whole[20:])
    ended.set()
    assert [int(line.data) async for line in lines] == [1]


async def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, 1)
    with path.open("ab") as file:
        file.write(b'{"log":"torn\n\x00\x00\x00\n{"log":1}\n[]\n{"log":"x","stream":"stdout","time":"never"}\n')
    write(path, 2)
    with path.open("ab") as file:
        file.write(b'{"log":"no end')
    assert await read(path) == [1, 2]


async def test_follow_drains_what_came_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    ended = asyncio.Event()
    write(path, 1)
    lines = lines_of(path, follow=True, ended=ended)
    assert int((await anext(lines)).data) == 1
    write(path, 2)
    assert int((await anext(lines)).data) == 2
    write(path, 3)
    ended.set()
    assert [int(line.data) async for line in lines] == [3]


async def test_follow_until_a_time_ends_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, 1, 9)
    assert await read(path, follow=True, until_ns=5 * SECOND) == [1]


@pytest.mark.parametrize("rotations", [1, 2, 3])
async def test_a_follower_passes_rotations_without_gap_or_repeat(tmp_path: Path, rotations: int) -> None:
    path = tmp_path / "log"
    ended = asyncio.Event()
    write(path, 1)
    lines = lines_of(path, follow=True, ended=ended)
    assert int((await anext(lines)).data) == 1
    number = 2
    for _ in range(rotations):
        write(path, number)
        for older in range(4, 0, -1):
            newer = path.with_name(f"log.{older - 1}") if older > 1 else path
            if newer.exists():
                newer.rename(path.with_name(f"log.{older}"))
        write(path, number + 1)
        number += 2
    ended.set()
    assert [int(line.data) async for line in lines] == list(range(2, number))


async def test_a_follower_meets_a_rotation_half_done(tmp_path: Path) -> None:
    path = tmp_path / "log"
    ended = asyncio.Event()
    for number, name in enumerate(("log.3", "log.2", "log.1", "log"), start=1):
        write(path.with_name(name), number)
    lines = lines_of(path, follow=True, ended=ended)
    assert int((await anext(lines)).data) == 1
    path.with_name("log.3").rename(path.with_name("log.4"))
    path.with_name("log.2").rename(path.with_name("log.3"))  # and log.1 is still to be renamed
    ended.set()
    assert [int(line.data) async for line in lines] == [2, 3, 4]


async def test_a_follower_agrees_with_a_writer_that_rotates_in_another_thread(tmp_path: Path) -> None:
    path = tmp_path / "log"
    ended = asyncio.Event()
    log = JsonFileLog(str(path), max_bytes=20_000, max_files=500)

    def write_all() -> None:
        for number in range(30_000):
            log.write(1, f"{number}\n".encode())
        log.close()

    async with asyncio.TaskGroup() as group:
        follower = group.create_task(read(path, follow=True, ended=ended))
        await asyncio.to_thread(write_all)
        ended.set()
    assert follower.result() == list(range(30_000))


def test_an_entry() -> None:
    line = parse_entry(b'{"log":"a\\u003c\\n","stream":"stderr","time":"1970-01-01T00:00:01.5Z","attrs":{"k":"v"}}')
    assert line == LogLine("stderr", 1_500_000_000, b"a<\n")


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
async def test_pieces_may_be_cut_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("worker.engine.logs.reader.CHUNK", size)
    path = tmp_path / "log"
    write(path, *range(20))
    with path.open("a") as file:
        file.write('{"log": damaged\n\n')
    write(path, *range(20, 40))
    assert await read(path) == list(range(40))
