"""Followers that the kernel tells of changes: at once, also over a rotation, and nothing stays open behind them."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from worker.engine.logs import reader as reading
from worker.engine.logs.jsonfile import JsonFileLog
from worker.engine.syscalls.inotify import Directories


async def test_a_follower_is_told(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    path, directories, ended = tmp_path / "log", Directories(), asyncio.Event()
    log = JsonFileLog(str(path), 600, 3)
    heard: list[tuple[int, float]] = []

    async def follow() -> None:
        async for lines in reading.read_logs(path, follow=True, ended=ended, directories=directories):
            heard.extend((int(line.data), time.monotonic()) for line in lines)

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        group.create_task(follow())
        written = []
        for number in range(40):  # a rotation every few lines
            await asyncio.sleep(0.01)
            written.append(time.monotonic())
            log.write(1, b"%d\n" % number)
        while len(heard) < 80:
            await asyncio.sleep(0.01)
        assert directories.watched() == 1
        asked = time.monotonic()
        ended.set()
    assert time.monotonic() - asked < reading.TOLD_SECONDS / 2, "the end is told, too"
    assert sorted(number for number, _ in heard) == sorted([*range(40), *range(40)])
    late = sorted(at - written[number] for number, at in heard)
    assert late[len(late) // 2] < reading.POLL_SECONDS, "told, not looked for"
    log.close()
    assert directories.watched() == 0
    assert len(os.listdir("/proc/self/fd")) == before


async def test_what_cannot_be_watched_is_said(tmp_path: Path) -> None:
    directories = Directories()
    with directories.watch(tmp_path / "absent") as event:
        assert event is None
    with directories.watch(tmp_path) as event:
        assert event is not None
        (tmp_path / "file").write_text("x")
        await asyncio.wait_for(event.wait(), 5)
    assert directories.watched() == 0
