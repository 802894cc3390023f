"""What a lab remembers between two commands: one JSON file, replaced atomically.

The file is a convenience, not the truth: `down` works from the cgroup alone when it is lost.
"""

import os
from pathlib import Path
from typing import Literal

import msgspec

from lab.paths import RUN, LabError, make_directory, run_dir

Engine = Literal["shoald", "dockerd"]


class Process(msgspec.Struct, frozen=True):
    """A process, told from a later one with the same number by its start time."""

    pid: int
    born: int
    """Start time in clock ticks since boot (proc(5), stat field 22)."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """One host of the lab (the switch and the registry are hosts of a kind too)."""

    name: str
    role: Literal["manager", "worker", "switch", "registry"]
    address: str
    """IPv4 address on the lab's bridge."""
    init: Process | None = None
    """Its process 1; None when the host is off."""
    daemon: Process | None = None
    """Its engine as last started."""


class Cut(msgspec.Struct, frozen=True, order=True):
    """Packets from `source` to `target` are dropped by the switch."""

    source: str
    target: str


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A whole lab."""

    name: str
    engine: Engine = "shoald"
    daemon_args: tuple[str, ...] = ()
    hosts: dict[str, Host] = {}
    switch: Host | None = None
    registry: Host | None = None
    cuts: tuple[Cut, ...] = ()


def path_of(lab: str) -> Path:
    """The state file of a lab."""
    return run_dir(lab) / "state.json"


def load(lab: str) -> State:
    """The state of a lab; LabError if there is none of that name."""
    try:
        return msgspec.json.decode(path_of(lab).read_bytes(), type=State)
    except FileNotFoundError:
        others = ", ".join(names()) or "none"
        raise LabError(f"no lab named {lab} is up (labs here: {others})") from None


def save(state: State) -> None:
    """Replace the state file."""
    path = path_of(state.name)
    make_directory(path.parent)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    os.replace(temporary, path)


def names() -> list[str]:
    """Names of the labs that exist on this machine."""
    return sorted(path.parent.name for path in RUN.glob("*/state.json"))


def born(pid: int) -> int:
    """Start time of a process in clock ticks since boot; ProcessLookupError if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(pid) from None
    fields = text.rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return int(fields[19])


def alive(process: Process | None) -> bool:
    """Whether that very process still runs (a zombie does not)."""
    if process is None:
        return False
    try:
        return born(process.pid) == process.born
    except ProcessLookupError:
        return False
