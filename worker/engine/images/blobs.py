"""Content-addressed files: `blobs/sha256/<hex>`.

Invariant: a file under its digest's name is complete, on disk, and has that digest: blobs are written to `blobs/tmp`,
hashed on the way, fsynced, and renamed last. Everything here blocks; callers run it in threads.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from types import TracebackType

from api.errors import InvalidArgument


class BlobWriter:
    """Writes one blob; leaving the `with` block without `commit` leaves nothing behind."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        fd, name = tempfile.mkstemp(dir=store.temporary)
        self._file = os.fdopen(fd, "wb")
        self._path: Path | None = Path(name)
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Append."""
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    def restart(self) -> None:
        """Forget what was written."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = 0

    def digest(self) -> str:
        """`sha256:...` of what was written so far."""
        return "sha256:" + self._hash.hexdigest()

    def commit(self, expected: str = "") -> str:
        """Make the blob durable under its digest, which is returned.

        Raises InvalidArgument when `expected` is another digest; then nothing is kept.
        """
        digest = self.digest()
        if expected and digest != expected:
            raise InvalidArgument(f"filesystem layer verification failed for digest {expected}")
        assert self._path is not None, "a blob is committed once"
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.rename(self._path, self._store.path(digest))
        self._path = None
        self._store.sync()
        return digest

    def close(self) -> None:
        """Remove what was not committed."""
        self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

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
        """An empty temporary file; the caller removes it, or the next start does."""
        fd, name = tempfile.mkstemp(dir=self.temporary)
        os.close(fd)
        return Path(name)

    def put(self, data: bytes) -> str:
        """Write a small blob; returns its digest."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def discard(self, digest: str) -> None:
        """Remove a blob; nothing happens if it is not there."""
        self.path(digest).unlink(missing_ok=True)

    def all(self) -> list[str]:
        """The digests of all blobs."""
        return ["sha256:" + name for name in os.listdir(self._directory)]

    def sync(self) -> None:
        """Make renames in the directory durable."""
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
