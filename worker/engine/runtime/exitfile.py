"""The file by which a monitor says how its process ended. Standard library only.

It keeps: a reader sees all of the file or nothing; with `sync` also after a power cut.
"""

from __future__ import annotations

import os


def exit_code(status: int) -> int:
    """A wait status as the code that is shown: 128 and the signal for a process that was killed."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def write(path: str, content: str, *, sync: bool) -> None:
    """A file that can't be written is passed over: its directory was removed or the disk is full, and those who listen
    are still told."""
    temporary = path + ".tmp"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, content.encode())
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
        if not sync:
            return
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError:
        pass
