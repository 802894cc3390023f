"""Being told that something in a directory changed (inotify): one descriptor for all directories that are watched.

It is open only while somebody watches. Where the kernel has no more to give (`fs.inotify.max_user_instances`), `watch`
says so and its user looks again and again instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_MODIFY, _MOVED_TO, _CREATE = 0x002, 0x080, 0x100
_EVENT = struct.Struct("iIII")
READ_BYTES = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class _Watch:
    number: int
    readers: set[asyncio.Event] = field(default_factory=set)


class Directories:
    """All watched directories of one event loop."""

    def __init__(self) -> None:
        self._fd = -1
        self._watches: dict[Path, _Watch] = {}

    @contextlib.contextmanager
    def watch(self, directory: Path) -> Iterator[asyncio.Event | None]:
        """An event that is set whenever a file of the directory is written, made or moved there; None if the kernel
        can't tell. Who waits clears it first and then looks."""
        event = asyncio.Event()
        try:
            self._add(directory, event)
        except OSError:
            yield None
            return
        try:
            yield event
        finally:
            self._remove(directory, event)

    def watched(self) -> int:
        """How many directories, for leak checks."""
        return len(self._watches)

    def _add(self, directory: Path, event: asyncio.Event) -> None:
        if self._fd < 0:
            self._fd = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
            asyncio.get_running_loop().add_reader(self._fd, self._changed)
        if directory not in self._watches:
            try:
                mask = _MODIFY | _MOVED_TO | _CREATE
                number = _check(_libc.inotify_add_watch(self._fd, os.fsencode(directory), mask))
            except OSError:
                self._close_if_unused()
                raise
            self._watches[directory] = _Watch(number)
        self._watches[directory].readers.add(event)

    def _remove(self, directory: Path, event: asyncio.Event) -> None:
        found = self._watches[directory]
        found.readers.discard(event)
        if not found.readers:
            del self._watches[directory]
            _libc.inotify_rm_watch(self._fd, found.number)  # fails when the directory is gone: so is the watch
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if not self._watches and self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _changed(self) -> None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        numbers = set()
        at = 0
        while at + _EVENT.size <= len(data):
            number, _, _, length = _EVENT.unpack_from(data, at)
            numbers.add(number)
            at += _EVENT.size + length
        for watch in self._watches.values():
            if watch.number in numbers or -1 in numbers:  # -1: so many that some were dropped
                for event in watch.readers:
                    event.set()


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
