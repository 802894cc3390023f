"""What is kept of execs, so that a restart of the daemon finds them: one small file each below the exec root.

They are as durable as what they tell of: a process outlives the daemon, not the machine. A file is replaced whole.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from api.types.base import Record
from api.types.exec import ExecBody

log = logging.getLogger(__name__)


class ExecRecord(Record, frozen=True, kw_only=True):
    """One exec."""

    id: str
    container_id: str
    body: ExecBody
    command: list[str]
    started: bool = False
    exit_code: int | None = None
    """None while it has not ended."""
    pid: int = 0


class ExecRecords:
    """The files. Blocking: call from a thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> list[ExecRecord]:
        """All that can be read; what a crash tore is removed."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = []
        for file in sorted(self._directory.iterdir()):
            try:
                found.append(msgspec.msgpack.decode(file.read_bytes(), type=ExecRecord))
            except (OSError, msgspec.MsgspecError) as error:
                log.warning("record of an exec can't be read file=%s error=%s", file, error)
                file.unlink(missing_ok=True)
        return found

    def save(self, record: ExecRecord) -> None:
        """Raises OSError."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._directory / f".{record.id}"
        temporary.write_bytes(msgspec.msgpack.encode(record))
        temporary.rename(self._directory / record.id)

    def remove(self, ids: list[str]) -> None:
        """Idempotent."""
        for exec_id in ids:
            (self._directory / exec_id).unlink(missing_ok=True)
