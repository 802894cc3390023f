"""Reads Docker's json-file logs, rotated files included, and follows them while the process writes.

A follower holds the file it reads open and knows it by inode: when the monitor has rotated, it finishes that file,
then goes through the newer ones, so it neither misses nor repeats a line. Files are read in bounded pieces in
a thread; a damaged line (the machine lost power while it was written) is passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import zlib
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from base.clock import parse_time
from base.offload import Pool
from worker.engine.syscalls.inotify import Directories

CHUNK = 256 * 1024
MAX_LINE = 1024 * 1024
"""Longer than any entry the monitor writes (16 KiB of text, escaped): more is damage."""
MARK_BYTES = 256
POLL_SECONDS = 0.05
"""Between two looks of a follower that nobody tells of changes."""
TOLD_SECONDS = 2.0
"""And of one that is told, for what it may not be told of."""
END_AFTER_MISSING = 3


class LogLine(NamedTuple):
    """One entry: a line with its newline, or a part of a long line without."""

    stream: str
    """`stdout` or `stderr`."""
    time_ns: int
    data: bytes


class _Entry(msgspec.Struct, gc=False):
    log: str = ""
    stream: str = "stdout"
    time: str = ""


_decoder = msgspec.json.Decoder(_Entry)


def _time_ns(text: str) -> int:
    """`parse_time` for what our monitor and dockerd write: the second is looked up, since many lines share one."""
    fraction = text[20:-1]
    if text[-1:] == "Z" and len(fraction) == 9 and fraction.isdecimal() and text[19] == ".":
        return _second_ns(text[:19]) + int(fraction)
    return parse_time(text)


@functools.lru_cache(maxsize=16)
def _second_ns(text: str) -> int:
    return parse_time(text + "Z")


def _line(entry: _Entry) -> LogLine:
    return LogLine(entry.stream, _time_ns(entry.time), entry.log.encode("utf-8", "replace"))


def _parse_all(whole: bytes) -> list[LogLine]:
    """Complete lines of a log file; damaged ones are passed over."""
    try:
        return [_line(entry) for entry in _decoder.decode_lines(whole)]
    except (msgspec.DecodeError, ValueError):
        lines = (parse_entry(piece) for piece in whole.split(b"\n") if piece)
        return [line for line in lines if line is not None]


def parse_entry(line: bytes) -> LogLine | None:
    """One line of a log file; None if it is damaged."""
    try:
        return _line(_decoder.decode(line))
    except (msgspec.DecodeError, ValueError):
        return None


async def read_logs(
    path: Path,
    *,
    follow: bool = False,
    since_ns: int = 0,
    until_ns: int = 0,
    tail: int = -1,
    streams: Sequence[str] = ("stdout", "stderr"),
    ended: asyncio.Event | None = None,
    pool: Pool | None = None,
    end: tuple[int, int] | None = None,
    directories: Directories | None = None,
) -> AsyncIterator[list[LogLine]]:
    """The entries of the log at `path`, oldest first, in lists of many: a log is read at the pace of its lists.

    Args:
        follow: go on as the log grows; ends once `ended` is set and everything is read (None: never).
        since_ns: only entries at or after this time; 0 for all.
        until_ns: only entries before or at this time, and then the end; 0 for all.
        tail: only the last this many entries of what `since_ns` and `streams` leave; -1 for all. What follows is not
            counted.
        pool: whose threads read; None reads in line (small logs, tests).
        end: (inode, size) of the file where to stop, and how much of it to read.
        directories: who tells a follower that there is more; None looks again and again.
    """
    reader = LogReader(path, end)
    held = contextlib.ExitStack()

    async def piece() -> list[LogLine]:
        return await pool.run(reader.read) if pool is not None else reader.read()

    everything = since_ns == 0 and until_ns == 0 and {"stdout", "stderr"} <= set(streams)

    def wanted(line: LogLine) -> bool:
        return line.stream in streams and line.time_ns >= since_ns

    try:
        changed: asyncio.Event | None = None
        if follow and directories is not None:
            changed = held.enter_context(directories.watch(path.parent))
        if tail >= 0:
            select = _Selection(since_ns, until_ns, frozenset(streams))
            yield await pool.run(reader.last, tail, select) if pool is not None else reader.last(tail, select)
        while True:
            # Asked before reading: what was written before the end is then certainly read.
            over = not follow or (ended is not None and ended.is_set())
            if changed is not None:
                changed.clear()
            lines = await piece()
            if until_ns and any(line.time_ns > until_ns for line in lines):
                yield [
                    line for line in itertools.takewhile(lambda line: line.time_ns <= until_ns, lines) if wanted(line)
                ]
                return
            if lines:
                yield lines if everything else [line for line in lines if wanted(line)]
            else:
                if over:
                    return
                await pause(ended, changed)
    finally:
        held.close()
        reader.close()


async def pause(ended: asyncio.Event | None, changed: asyncio.Event | None) -> None:
    """Until the next look at a log: `changed` if there is one, a little time if not; or the end of the container."""
    events = [event for event in (ended, changed) if event is not None]
    try:
        async with asyncio.timeout(POLL_SECONDS if changed is None else TOLD_SECONDS), asyncio.TaskGroup() as group:
            waiting = [group.create_task(event.wait()) for event in events]
            if waiting:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(POLL_SECONDS)
            for task in waiting:
                task.cancel()
    except TimeoutError:
        pass


@dataclass(frozen=True)
class _Selection:
    since_ns: int
    until_ns: int
    streams: frozenset[str]

    def has(self, line: LogLine) -> bool:
        return line.stream in self.streams and not (self.until_ns and line.time_ns > self.until_ns)


class Cursor(msgspec.Struct, frozen=True):
    """A place between two entries that outlives the process that was there."""

    inode: int
    offset: int
    mark: int
    """A checksum of the file's beginning: an inode's number is used again when its file is gone."""


class LogReader:
    """Walks from the oldest rotated file to the present one and on. Not for two threads at once."""

    def __init__(self, path: Path, end: tuple[int, int] | None = None) -> None:
        """`end`: (inode, size) of the last file to read, and how much of it."""
        self._path = path
        self._end = end
        self._fd = -1
        self._rest = b""

    def read(self) -> list[LogLine]:
        """The next entries, at most about CHUNK bytes of them; empty when there are no more now."""
        while True:
            if self._fd < 0 and not self._open_first():
                return []
            data = os.read(self._fd, self._allowed())
            if data:
                if lines := self._split(data):
                    return lines
            elif self._at_end() or not self._open_next():
                return []

    def _at_end(self) -> bool:
        """In the last file that is wanted."""
        return self._end is not None and os.fstat(self._fd).st_ino == self._end[0]

    def _allowed(self) -> int:
        """How many bytes the next piece may have."""
        if self._end is None or not self._at_end():
            return CHUNK
        return max(0, min(CHUNK, self._end[1] - os.lseek(self._fd, 0, os.SEEK_CUR)))

    def cursor(self) -> Cursor | None:
        """After the last entry that `read` gave; None before the first file was there."""
        if self._fd < 0:
            return None
        offset = os.lseek(self._fd, 0, os.SEEK_CUR) - len(self._rest)
        return Cursor(os.fstat(self._fd).st_ino, offset, _mark(self._fd, offset))

    def resume(self, cursor: Cursor) -> bool:
        """Go on at a cursor; False if its file has been rotated away, and then the oldest there is comes first."""
        for path, inode in self._present(held=None):
            if inode == cursor.inode and self._open(path, inode):
                if os.fstat(self._fd).st_size >= cursor.offset and _mark(self._fd, cursor.offset) == cursor.mark:
                    os.lseek(self._fd, cursor.offset, os.SEEK_SET)
                    return True
                self.close()
        return False

    def last(self, count: int, select: _Selection) -> list[LogLine]:
        """The last `count` selected entries, found from the end; `read` goes on after them."""
        while True:
            files = self._present(held=None)
            if not files:
                return []
            if self._open(*files[0]):
                found = self._last_of(files[1:], count, select)
                if found is not None:
                    return found
            # A rotation moved a file between looking and opening: look again.

    def _last_of(self, older: list[tuple[Path, int]], count: int, select: _Selection) -> list[LogLine] | None:
        """`last`, with the newest file held; None if an older file is not where it was."""
        end = os.lseek(self._fd, 0, os.SEEK_END)
        pieces = _backwards(self._fd, end)
        self._rest = next(pieces, b"")  # what is not complete yet
        found: deque[LogLine] = deque()
        if _collect(found, pieces, count, select):
            return list(found)
        for path, inode in older:
            opened = _open(path, inode)
            if opened < 0:
                if not path.exists():
                    break  # the oldest fell away
                return None
            try:
                if _collect(found, _backwards(opened, os.fstat(opened).st_size), count, select):
                    break
            finally:
                os.close(opened)
        return list(found)

    def _split(self, data: bytes) -> list[LogLine]:
        whole, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._rest += data
        else:
            whole, self._rest = self._rest + whole, rest
        if len(self._rest) > MAX_LINE:
            self._rest = b""
        return _parse_all(whole) if newline else []

    def _open_first(self) -> bool:
        """The oldest file there is."""
        while found := self._present(held=None):
            if self._end is not None and self._end[0] not in (inode for _, inode in found):
                return False  # all that was wanted has been rotated away
            if self._open(*found[-1]):
                return True
        return False

    def _open_next(self) -> bool:
        """At the end of the held file: go to the next newer one, if the held one is no longer the present one."""
        held = os.fstat(self._fd)
        while newer := self._present(held=held.st_ino):
            # Written between our last read and the rotation: the held file is complete now.
            if os.fstat(self._fd).st_size > os.lseek(self._fd, 0, os.SEEK_CUR):
                return True
            # Another rotation may come between looking and opening: then look again.
            if self._open(*newer[-1]):
                return True
        return False

    def _present(self, held: int | None) -> list[tuple[Path, int]]:
        """The files newer than inode `held`, newest first, with their inodes.

        A rotation renames from the oldest on, each to a higher number: looking from the lowest number up may meet
        a file twice, never miss one. While it goes on one number is missing: the end is only after several.
        """
        found: dict[int, Path] = {}
        missing = number = 0
        while missing < END_AFTER_MISSING:
            path = self._path.with_name(f"{self._path.name}.{number}") if number else self._path
            number += 1
            try:
                inode = os.stat(path).st_ino
            except OSError:
                missing += 1
                continue
            missing = 0
            if inode == held:
                break
            found.setdefault(inode, path)
        return [(path, inode) for inode, path in found.items()]

    def _open(self, path: Path, inode: int) -> bool:
        """Hold `path` from now on; False if it is not there, or is not the file that had `inode`."""
        fd = _open(path, inode)
        if fd < 0:
            return False
        self.close()
        self._fd = fd
        self._rest = b""
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open(path: Path, inode: int) -> int:
    """A descriptor of `path`; -1 if it is not there, or is not the file that had `inode`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    if os.fstat(fd).st_ino != inode:
        os.close(fd)
        return -1
    return fd


def _mark(fd: int, offset: int) -> int:
    return zlib.crc32(os.pread(fd, min(offset, MARK_BYTES), 0))


def _backwards(fd: int, end: int) -> Iterator[bytes]:
    """The lines before `end`, last first; the very first piece is what stands after the last newline."""
    rest = b""
    while end > 0:
        start = max(0, end - CHUNK)
        pieces = (os.pread(fd, end - start, start) + rest).split(b"\n")
        rest = pieces.pop(0)
        if len(rest) > MAX_LINE:
            rest = b""
        yield from reversed(pieces)
        end = start
    yield rest


def _collect(found: deque[LogLine], pieces: Iterator[bytes], count: int, select: _Selection) -> bool:
    """Put selected entries before those in `found`; True once there are enough, or no older one can be selected."""
    for piece in pieces:
        if len(found) >= count:
            return True
        line = parse_entry(piece) if piece else None
        if line is None:
            continue
        if line.time_ns < select.since_ns:
            return True
        if select.has(line):
            found.appendleft(line)
    return len(found) >= count
