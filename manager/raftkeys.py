"""The keys that seal this manager's Raft log: in the certificates directory, beside the node's own key.

A key is durable before anything is sealed with it, and stays until a load of the log has shown that nothing needs it.
The file says how its keys are wrapped; `plain` is the only way yet, and another one is refused, not guessed at.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from api.errors import Internal, Unavailable
from base.clock import NS, Clock
from raft.storage.seal import KEY_BYTES, KeyRing

FILE = "swarm-raft.keys"
PLAIN = "plain"
ROTATE_AGE_NS = 7 * 24 * 3600 * NS
"""A renewed certificate brings a new key along, unless the present one is younger."""


class _Key(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    created: int
    """Nanoseconds since the epoch."""
    key: bytes


class _File(msgspec.Struct, frozen=True, kw_only=True):
    format: int = 1
    wrapped: str = PLAIN
    keys: list[_Key]


class RaftKeys:
    """One manager's keys; `ring` is what the storage seals with."""

    def __init__(self, directory: Path, clock: Clock, *, log_exists: bool) -> None:
        """Read the keys, or make the first one for a log that does not exist yet. Blocks.

        Raises Unavailable when there is a log but no key for it, Internal for a file that can't be read.
        """
        self._path = directory / FILE
        self._clock = clock
        self._keys = self._read()
        if not self._keys:
            if log_exists:
                raise Unavailable(f"{self._path} is missing: the raft log can't be read without its key")
            self._write([self._new(1)])
        self.ring = KeyRing({key.number: key.key for key in self._keys})

    def rotate_if_old(self) -> bool:
        """A new key for what is written from now on, if the present one is old. Blocks."""
        newest = self._keys[-1]
        if self._clock.now_ns() - newest.created < ROTATE_AGE_NS:
            return False
        fresh = self._new(newest.number + 1)
        self._write([*self._keys, fresh])
        self.ring.add(fresh.number, fresh.key)
        return True

    def prune(self) -> None:
        """Forget what the log, which was just loaded as a whole, does not need. Blocks."""
        kept = [key for key in self._keys[:-1] if key.number in self.ring.opened]
        if len(kept) + 1 < len(self._keys):
            self._write([*kept, self._keys[-1]])

    def _new(self, number: int) -> _Key:
        return _Key(number=number, created=self._clock.now_ns(), key=os.urandom(KEY_BYTES))

    def _read(self) -> list[_Key]:
        try:
            content = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except FileNotFoundError:
            return []
        except msgspec.MsgspecError as error:
            raise Internal(f"{self._path}: {error}") from None
        if content.wrapped != PLAIN or content.format != 1:
            raise Internal(f"{self._path}: keys wrapped by {content.wrapped!r} are not known to this version")
        return sorted(content.keys, key=lambda key: key.number)

    def _write(self, keys: list[_Key]) -> None:
        """Durable on return, whole after a crash."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(_File(keys=keys)))
            file.flush()
            os.fsync(descriptor)
        temporary.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._keys = keys
