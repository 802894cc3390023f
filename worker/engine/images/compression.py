"""Reading compressed layers: the format is told by the first bytes, never by what a manifest claims.

gzip (isal), zstd, bzip2, xz, or none, as Docker accepts. No program is started to inflate anything.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import threading
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol, cast

import zstandard
from isal import igzip, isal_zlib

from api.errors import Cancelled, InvalidArgument
from worker.engine.images import limits
from worker.engine.images.tarstream import Readable

_GZIP, _ZSTD, _BZIP2, _XZ = _MAGICS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00")
_GZIP_LEVEL = 2
_ERRORS: tuple[type[Exception], ...] = (
    EOFError,
    OSError,
    zstandard.ZstdError,
    lzma.LZMAError,
    cast(type[Exception], isal_zlib.error),
)


def open_plain(file: BufferedReader) -> Readable:
    """The uncompressed content of a file that may be compressed."""
    head = file.peek(6)[:6]
    if head.startswith(_GZIP):
        return cast(Readable, cast(Any, igzip).open(file, "rb"))
    if head.startswith(_ZSTD):
        decompressor = zstandard.ZstdDecompressor(max_window_size=limits.ZSTD_WINDOW_MAX)
        return decompressor.stream_reader(file, read_size=limits.CHUNK, read_across_frames=True)
    if head.startswith(_BZIP2):
        return bz2.BZ2File(file)
    if head.startswith(_XZ):
        return lzma.LZMAFile(file)
    return file


def format_of(path: Path) -> str:
    """How a file is compressed: `gzip`, `zstd`, `bzip2`, `xz`, or "" when it is not."""
    with open(path, "rb") as file:
        head = file.read(6)
    names = ("gzip", "zstd", "bzip2", "xz")
    return next((name for name, magic in zip(names, _MAGICS, strict=True) if head.startswith(magic)), "")


class Writable(Protocol):
    """Takes bytes, blocking."""

    def write(self, data: bytes, /) -> int: ...


def compress(source: Path, target: Writable) -> None:
    """A file's uncompressed content as gzip, the same bytes every time."""
    compressor = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)
    with open(source, "rb") as file:
        for data in read_plain(file):
            target.write(compressor.compress(data))
    target.write(compressor.flush())


def read_plain(file: BufferedReader) -> Iterator[bytes]:
    """The uncompressed content in chunks. Raises InvalidArgument when it is damaged."""
    plain = open_plain(file)
    while True:
        try:
            data = plain.read(limits.CHUNK)
        except _ERRORS as error:
            raise InvalidArgument(f"archive is damaged: {str(error) or type(error).__name__}") from error
        if not data:
            return
        yield data


class LayerReader:
    """An uncompressed layer on its way to the extractor: hashed (its diff id), and stoppable from another thread.

    `hashing` is False where nobody asks for the digest, or where it is known; `finish` is not for those.
    """

    def __init__(
        self,
        file: BufferedReader,
        stop: threading.Event,
        progress: Callable[[int], None] | None = None,
        *,
        hashing: bool = True,
    ) -> None:
        self._file = file
        self._plain = open_plain(file)
        self._hash = hashlib.sha256() if hashing else None
        self._stop = stop
        self._progress = progress
        self._reported = 0
        self.size = 0
        """Uncompressed bytes so far."""
        self._buffer = memoryview(b"")

    def _fill(self) -> None:
        if self._stop.is_set():
            raise Cancelled("context canceled")
        try:
            data = self._plain.read(limits.CHUNK)
        except _ERRORS as error:
            raise InvalidArgument(f"archive is damaged: {str(error) or type(error).__name__}") from error
        if self._hash is not None:
            self._hash.update(data)
        self.size += len(data)
        self._buffer = memoryview(data)
        if self._progress is not None:
            at = self._file.tell()
            if at != self._reported:
                self._reported = at
                self._progress(at)

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        if not self._buffer:
            self._fill()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return bytes(data)

    def finish(self) -> str:
        """Read the rest (padding after the end of the archive belongs to the digest) and return the diff id."""
        assert self._hash is not None, "made without hashing"
        self._buffer = memoryview(b"")
        self._fill()
        while self._buffer:
            self._fill()
        return "sha256:" + self._hash.hexdigest()
