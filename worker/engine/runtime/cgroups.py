"""What the monitor reads of a container's cgroup: was something in it killed for want of memory.

Standard library only.
"""

from __future__ import annotations

ROOT = "/sys/fs/cgroup"


class Oom:
    """Reads the kernel's count of out-of-memory kills; must be made while the process lives."""

    def __init__(self, pid: int, root: str = ROOT) -> None:
        self._path = ""
        try:
            with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
                self._path = _counter_file(file.read(), root)
        except OSError:
            return  # it has ended already: no cgroup, no count
        self._before = self._count()

    def happened(self) -> bool:
        """True if the kernel killed something here since this was made; must be asked before the cgroup goes."""
        return bool(self._path) and self._count() > self._before

    def _count(self) -> int:
        try:
            with open(self._path, encoding="ascii") as file:
                for line in file:
                    name, _, value = line.partition(" ")
                    if name == "oom_kill":
                        return int(value)
        except OSError:
            pass
        return 0


def _counter_file(membership: str, root: str) -> str:
    """The file with an `oom_kill` line, from the text of /proc/<pid>/cgroup: v1 memory controller, else v2."""
    unified = ""
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return f"{root}/memory{path}/memory.oom_control"
        if not controllers:
            unified = f"{root}{path}/memory.events"
    return unified
