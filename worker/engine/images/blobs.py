"""Content-addressed files: `blobs/sha256/<hex>`.

Invariant: a file under its digest's name is complete and has that digest: blobs are written to `blobs/tmp`, hashed on
the way, and renamed last. They are synced to the disk once for all of an image, before a record names any of them; the
start removes what no record names. Everything here blocks; callers run it in threads.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from io import BufferedWriter
from pathlib import Path
from types import TracebackType

from api.errors import InvalidArgument
from worker.engine.syscalls.openat2 import sync_filesystem


class BlobWriter:
    """Writes one blob; after `close` without `commit` nothing is left.

    Making one does no I/O. Calls may come from several threads, and a cancelled caller may close it while a write of
    its own still runs in a thread: the write is waited for, and later ones are refused.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._file: BufferedWriter | None = None
        self._path = store.spool()
        self._closed = False
        self._hash = hashlib.sha256()
        self.size = 0

    def _open(self) -> BufferedWriter:
        if self._closed:
            raise ValueError("the blob's writer is closed")
        if self._file is None:
            self._file = open(self._path, "xb")  # noqa: SIM115 - closed by `close`
        return self._file

    def write(self, data: bytes, /) -> int:
        """Append."""
        with self._lock:
            written = self._open().write(data)
            self._hash.update(data)
            self.size += len(data)
            return written

    def restart(self) -> None:
        """Forget what was written."""
        with self._lock:
            file = self._open()
            file.seek(0)
            file.truncate()
            self._hash = hashlib.sha256()
            self.size = 0

    def digest(self) -> str:
        """`sha256:...` of what was written so far."""
        return "sha256:" + self._hash.hexdigest()

    def commit(self, expected: str = "") -> str:
        """Put the blob under its digest, which is returned.

        Raises InvalidArgument when `expected` is another digest; then nothing is kept.
        """
        with self._lock:
            digest = self.digest()
            if expected and digest != expected:
                raise InvalidArgument(f"filesystem layer verification failed for digest {expected}")
            file = self._open()
            file.close()
            os.rename(self._path, self._store.path(digest))
            self._closed = True
            return digest

    def close(self) -> None:
        """Remove what was not committed."""
        with self._lock:
            if not self._closed and self._file is not None:
                self._file.close()
                self._path.unlink(missing_ok=True)
            self._closed = True

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BlobStore:
    """All blobs below one directory."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "sha256"
        self.temporary = root / "tmp"

    def prepare(self) -> None:
        """Make the directories; remove what a crash left half-written."""
        for directory in (self._directory, self.temporary):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self.temporary.iterdir():
            left.unlink()

    def path(self, digest: str) -> Path:
        """Where the blob lies if it is there."""
        return self._directory / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """True when the blob is there, whole."""
        return self.path(digest).exists()

    def read(self, digest: str) -> bytes:
        """A small blob. Raises FileNotFoundError."""
        return self.path(digest).read_bytes()

    def writer(self) -> BlobWriter:
        """Begin a blob."""
        return BlobWriter(self)

    def spool(self) -> Path:
        """A name for a temporary file, which the caller makes and removes; the next start removes it, too."""
        return self.temporary / secrets.token_hex(16)

    def put(self, data: bytes) -> str:
        """Write a small blob; returns its digest."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def set_aside(self, digest: str) -> Path | None:
        """Take a blob out of sight, quickly; the path is to be unlinked then. None if it is not there."""
        aside = self.spool()
        try:
            os.rename(self.path(digest), aside)
        except FileNotFoundError:
            return None
        return aside

    def discard(self, digest: str) -> None:
        """Remove a blob; nothing happens if it is not there. Large ones are better set aside first."""
        self.path(digest).unlink(missing_ok=True)

    def all(self) -> list[str]:
        """The digests of all blobs."""
        return ["sha256:" + name for name in os.listdir(self._directory)]

    def sync(self) -> None:
        """All blobs are on disk when this returns."""
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_filesystem(fd)
        finally:
            os.close(fd)

    def shares_disk_with(self, other: Path) -> bool:
        """Whether a sync of `other`'s file system is one of the blobs, too."""
        return os.stat(self._directory).st_dev == os.stat(other).st_dev
