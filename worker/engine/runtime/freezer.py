"""Live control of a container's cgroup by its files, v1 and v2: freeze, thaw, and who is in it."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

from api.errors import Conflict, NotFound

ROOT = Path("/sys/fs/cgroup")
FREEZE_SECONDS = 10.0


async def freeze(cgroup: str, *, frozen: bool) -> None:
    """Stop or continue every process in a cgroup (`/shoal/<id>`), and wait until it is so.

    Raises:
        NotFound: the cgroup has gone with its last process.
        Conflict: the kernel did not get there in time; it is set back.
    """
    directory, version = _directory(cgroup)
    if version == 1:
        file, wanted = directory / "freezer.state", "FROZEN" if frozen else "THAWED"
        state, reached = file, wanted
    else:
        file, wanted = directory / "cgroup.freeze", "1" if frozen else "0"
        state, reached = directory / "cgroup.events", f"frozen {wanted}"
    try:
        file.write_text(wanted)
        async with asyncio.timeout(FREEZE_SECONDS):
            while reached not in state.read_text().splitlines():
                await asyncio.sleep(0.002)
    except TimeoutError:
        file.write_text("THAWED" if version == 1 else "0")
        raise Conflict("the processes could not be frozen in time") from None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):  # the cgroup went with the last process
            raise
        raise NotFound("no process runs") from None


def processes(cgroup: str) -> list[int]:
    """Every process in a cgroup and below, as host pids in ascending order. Raises NotFound as `freeze`."""
    directory, _ = _directory(cgroup)
    found = []
    for folder, _names, files in os.walk(directory):
        if "cgroup.procs" in files:
            try:
                found += [int(line) for line in (Path(folder) / "cgroup.procs").read_text().split()]
            except OSError:
                continue  # it was removed meanwhile
    return sorted(set(found))


def remove_stray_directory(cgroup: str) -> None:
    """Where v1 and v2 were mixed, crun leaves a plain directory with a plain `cgroup.procs` in place of the v2 cgroup
    (see worker.engine.syscalls.mountns)."""
    if not cgroup or (ROOT / "unified/cgroup.controllers").exists():
        return
    directory = ROOT / "unified" / cgroup.lstrip("/")
    try:
        (directory / "cgroup.procs").unlink(missing_ok=True)
        directory.rmdir()
    except OSError:
        pass  # it is not there, or not empty and then not ours


def _directory(cgroup: str) -> tuple[Path, int]:
    """The cgroup's directory and version, by its name and never by /proc/<pid>/cgroup: of a process that is about to
    end that file names the root."""
    version = 2 if (ROOT / "cgroup.controllers").exists() else 1
    name = cgroup.strip("/")
    directory = (ROOT / "freezer" if version == 1 else ROOT) / name
    if not name or not directory.is_dir():
        raise NotFound("no process runs")
    return directory, version
