"""Writes Docker's json-file log: one JSON object a line, `{"log":"text\\n","stream":"stdout","time":"..."}`.

Used inside the monitor: standard library only, and it never raises for a full disk, because a log that can't be
written must not stop the container. A line longer than 16 KiB is written in parts, of which only the last ends in
a newline; a part never breaks a UTF-8 character.
"""

from __future__ import annotations

import base64
import json.encoder
import os
import time
from typing import Any

PART_BYTES = 16 * 1024
_encode = json.encoder.encode_basestring
_STREAMS = {1: "stdout", 2: "stderr"}
_GO_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


class JsonFileLog:
    """The log of one process. `write` as output comes, `close` at its end."""

    def __init__(self, path: str, max_bytes: int = 0, max_files: int = 1) -> None:
        """`max_bytes` 0 never rotates; `max_files` counts the present file and `path.1`, `path.2`, ..."""
        self._path = path
        self._max_bytes = max_bytes
        self._max_files = max(max_files, 1)
        self._rest = {1: b"", 2: b""}
        self._fd = -1
        self._size = 0
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: int, data: bytes) -> None:
        """`stream` is 1 or 2. Complete lines go to the file now, the rest when it is complete or long enough."""
        lines = (self._rest[stream] + data).split(b"\n")
        rest = lines.pop()
        parts = []
        for line in lines:
            while len(line) >= PART_BYTES:
                part, line = _cut(line)
                parts.append(part)
            parts.append(line + b"\n")
        while len(rest) >= PART_BYTES:
            part, rest = _cut(rest)
            parts.append(part)
        self._rest[stream] = rest
        if parts:
            self._put(stream, parts)

    def place(self) -> dict[str, Any]:
        """Where the log ends now, for who wants all before and nothing after: the present file's inode and size, and
        per stream what waits for the rest of its line (in base64, for JSON)."""
        rests = {str(stream): base64.b64encode(rest).decode() for stream, rest in self._rest.items()}
        return {"inode": os.fstat(self._fd).st_ino, "size": self._size, "rests": rests}

    def close(self) -> None:
        """Write what is left without a newline, and close."""
        for stream, rest in self._rest.items():
            if rest:
                self._put(stream, [rest])
        self._rest = {1: b"", 2: b""}
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _put(self, stream: int, parts: list[bytes]) -> None:
        end = f',"stream":"{_STREAMS[stream]}","time":"{_now()}"}}\n'
        entries: list[str] = []
        length = 0
        for part in parts:
            text = _encode(part.decode("utf-8", "replace"))
            if "<" in text or ">" in text or "&" in text or "\u2028" in text or "\u2029" in text:
                text = text.translate(_GO_ESCAPES)
            entry = '{"log":' + text + end
            entries.append(entry)
            length += len(entry)
            if self._max_bytes and self._size + length >= self._max_bytes:
                self._flush(entries)
                self._rotate()
                entries, length = [], 0
        if entries:
            self._flush(entries)

    def _flush(self, entries: list[str]) -> None:
        content = "".join(entries).encode()
        try:
            while content:
                written = os.write(self._fd, content)
                self._size += written
                content = content[written:]
        except OSError:
            # Disk full or gone: these lines are lost, the container goes on. A torn line would hide the next one.
            self._try_newline()

    def _try_newline(self) -> None:
        try:
            self._size += os.write(self._fd, b"\n")
        except OSError:
            pass

    def _rotate(self) -> None:
        """`path` becomes `path.1`, and so on; the oldest goes. A new inode each time, so that readers notice."""
        try:
            for number in range(self._max_files - 1, 0, -1):
                older = f"{self._path}.{number}"
                newer = f"{self._path}.{number - 1}" if number > 1 else self._path
                if os.path.exists(newer):
                    os.rename(newer, older)
            if self._max_files == 1:
                os.unlink(self._path)
            previous = self._fd
            self._open()
            os.close(previous)
        except OSError:
            return  # the present file grows on


def _cut(line: bytes) -> tuple[bytes, bytes]:
    """The first part of a long line, at most PART_BYTES, ending at a character's end if the text is UTF-8."""
    end = PART_BYTES
    for back in range(4):
        if len(line) == end - back or line[end - back] & 0xC0 != 0x80:
            return line[: end - back], line[end - back :]
    return line[:end], line[end:]


def _now() -> str:
    seconds, fraction = divmod(time.time_ns(), 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"
