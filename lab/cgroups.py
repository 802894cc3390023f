"""A lab's cgroups: each host's subtree, and the net with which `down` catches every process of the lab.

Invariant: every process of a lab, containers included, lives below `shoal-lab/<lab>` in each hierarchy, so `kill`
finds them all even when the state file is lost. cgroup v1 (also "hybrid") and pure v2 are both served; in a hybrid
setup the hosts see v1 only.
"""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.paths import CGROUP, LabError

V2_LEAF = "system"
"""In v2 a cgroup with children has no processes of its own: the host's own processes live in this leaf."""


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup hierarchy of the machine."""

    mount: Path
    options: tuple[str, ...]
    """v1: its controllers, or `name=…` for a named one; v2: empty."""
    v2: bool


def parse_mountinfo(text: str) -> list[Hierarchy]:
    """Hierarchies in a /proc/…/mountinfo text. Where v1 exists, a v2 mount beside it ("unified") is left out."""
    found: dict[tuple[str, ...], Hierarchy] = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        mount = Path(left.split()[4])
        kind, _, super_options = right.split(" ", 2)
        if kind == "cgroup2":
            found.setdefault((), Hierarchy(mount=mount, options=(), v2=True))
        elif kind == "cgroup":
            general = {"rw", "ro", "xattr", "clone_children", "noprefix"}
            options = tuple(o for o in super_options.split(",") if o not in general and not o.startswith("release_"))
            found.setdefault(options, Hierarchy(mount=mount, options=options, v2=False))
    old = [h for h in found.values() if not h.v2]
    return old or list(found.values())


def hierarchies() -> list[Hierarchy]:
    """The machine's hierarchies; LabError if there are none."""
    found = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    if not found:
        raise LabError("no cgroup hierarchy is mounted")
    return found


def create(lab: str, host: str) -> list[Path]:
    """Make the host's subtree in each hierarchy; returns the directories its first process must enter."""
    made = []
    for hierarchy in hierarchies():
        path = hierarchy.mount
        for part in (CGROUP, lab, host):
            if hierarchy.v2:
                _delegate(path)
            path = path / part
            path.mkdir(exist_ok=True)
            if "cpuset" in hierarchy.options:
                _inherit_cpuset(path)
        made.append(path)
    return made


def entries(lab: str, host: str) -> list[Path]:
    """The directories a further process of a running host must enter."""
    return [
        h.mount / CGROUP / lab / host / (V2_LEAF if h.v2 else "")
        for h in hierarchies()
        if (h.mount / CGROUP / lab / host).is_dir()
    ]


def processes(lab: str, host: str | None = None) -> set[int]:
    """Process ids (this machine's numbers) in the lab or in one of its hosts."""
    found: set[int] = set()
    for directory in _directories(lab, host):
        try:
            found.update(int(line) for line in (directory / "cgroup.procs").read_text().split())
        except OSError:  # removed under our eyes
            continue
    return found - {0}


def kill(lab: str, host: str | None = None, *, timeout_s: float = 20.0) -> None:
    """End every process of the lab or host at once and wait until none is left; LabError if some will not die."""
    deadline = time.monotonic() + timeout_s
    while True:
        for directory in _directories(lab, host):
            frozen = directory / "freezer.state"
            if frozen.exists():  # a frozen process does not hear SIGKILL in v1
                frozen.write_text("THAWED")
        left = processes(lab, host)
        if not left:
            return
        if time.monotonic() > deadline:
            raise LabError(f"processes of lab {lab} will not end: {sorted(left)}")
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def remove(lab: str, host: str | None = None, *, timeout_s: float = 10.0) -> None:
    """Remove the (empty) subtree of the lab or host, and the common parent when it was the last lab."""
    deadline = time.monotonic() + timeout_s
    while True:
        for directory in list(_directories(lab, host)):
            try:
                directory.rmdir()
            except OSError:  # a dying process may hold it for a moment
                continue
        if not any(True for _ in _directories(lab, host)):
            break
        if time.monotonic() > deadline:
            raise LabError(f"cgroups of lab {lab} cannot be removed: {[str(d) for d in _directories(lab, host)]}")
        time.sleep(0.02)
    if host is None:
        for hierarchy in hierarchies():
            try:
                (hierarchy.mount / CGROUP).rmdir()
            except OSError:  # another lab lives there, or it never existed
                continue


def _directories(lab: str, host: str | None) -> Iterator[Path]:
    """Cgroup directories below the lab (or host), deepest first."""
    for hierarchy in hierarchies():
        top = hierarchy.mount / CGROUP / lab / (host or "")
        if top.is_dir():
            for path, _, _ in os.walk(top, topdown=False):
                yield Path(path)


def _inherit_cpuset(path: Path) -> None:
    """A v1 cpuset takes no process before its cpus and mems are set."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        value = (path / name).read_text().strip()
        if not value:
            (path / name).write_text((path.parent / name).read_text())


def _delegate(path: Path) -> None:
    """Let the children of a v2 cgroup use its controllers, as far as the kernel agrees."""
    for controller in (path / "cgroup.controllers").read_text().split():
        try:
            (path / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:  # some cannot be delegated (threads, real-time tasks): hosts go without
            continue
