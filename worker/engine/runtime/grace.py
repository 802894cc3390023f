"""Paying for a cgroup move ahead of time.

Moving a process into a cgroup takes a kernel-wide lock that first waits for an RCU grace period, 5 to 15 ms of doing
nothing; whoever comes within about as long after that does not wait again. So the daemon takes the lock once when it
learns that a process will be created, while it still mounts and wires, and the runtime finds it cheap. What it writes
is its own id into its own cgroup, which changes nothing.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from base.offload import Pool

log = logging.getLogger(__name__)
ROOT = Path("/sys/fs/cgroup")


class GracePeriod:
    """`begin` may be called at any time and as often as one likes."""

    def __init__(self, root: Path = ROOT, membership: Path = Path("/proc/self/cgroup")) -> None:
        self._file = own_procs(membership, root)
        self._pool = Pool("grace-period", 1)
        self._running = False

    async def run(self) -> None:
        """Take the lock; at once if that is being done already, or can't be."""
        if self._running or self._file is None:
            return
        self._running = True
        try:
            await self._pool.run(_write, self._file)
        except OSError as error:
            # A kernel or a container that does not let us: processes are created as before, a little later.
            log.info("cgroup moves can't be paid for ahead file=%s error=%s", self._file, error)
            self._file = None
        finally:
            self._running = False

    def close(self) -> None:
        self._pool.close()


def own_procs(membership: Path, root: Path) -> Path | None:
    """The cgroup.procs of the process itself, in any hierarchy mounted below `root`."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for name in (controllers, ""):
            file = root / name / path.lstrip("/") / "cgroup.procs"
            if file.is_file():
                return file
    return None


def _write(file: Path) -> None:
    file.write_text(str(os.getpid()))
