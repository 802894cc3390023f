"""GET /containers/{id}/stats: what a container uses now, read from its cgroup (v1 or v2) and its network namespace.

The document's field names are those of cgroup v1; on v2 the counters that exist are given under them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from base.clock import rfc3339nano
from worker.engine.containers.kit import Kit
from worker.engine.containers.store import Container

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_S = 1.0
_COUNTERS = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped")
_DEV_COLUMNS = (0, 1, 2, 3, 8, 9, 10, 11)
_UNLIMITED = 1 << 62


@dataclass(frozen=True)
class Groups:
    """Where the cgroup of a process is."""

    version: int
    controllers: dict[str, Path] = field(default_factory=dict)
    """v1: controller -> directory; v2: all under ``."""

    def directory(self, controller: str) -> Path:
        return self.controllers.get(controller if self.version == 1 else "", Path("/nonexistent"))


class Stats:
    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def read(self, ref: str, *, stream: bool) -> AsyncIterator[dict[str, Any]]:
        """One document, or one a second until the container is gone. One that does not run has empty numbers."""
        container = self._kit.store.get(ref)
        return self._documents(container, stream=stream)

    async def _documents(self, container: Container, *, stream: bool) -> AsyncIterator[dict[str, Any]]:
        document = await self._one(container, {})
        if not stream:
            if container.running:
                # A single answer carries a rate, too: the first reading becomes its precpu_stats.
                await asyncio.sleep(PERIOD_S)
                document = await self._one(container, document["cpu_stats"])
            yield document
            return
        while True:
            yield document
            try:
                async with asyncio.timeout(PERIOD_S):
                    await container.removed.wait()
                return
            except TimeoutError:
                document = await self._one(container, document["cpu_stats"])

    async def _one(self, container: Container, before: dict[str, Any]) -> dict[str, Any]:
        pid = container.record.pid if container.running else 0
        document = {
            "read": rfc3339nano(self._kit.clock.now_ns()),
            "precpu_stats": before or _no_cpu(),
            "id": container.id,
            "name": f"/{container.record.name}",
        }
        numbers = await self._kit.disk.run(read_numbers, pid) if pid else empty_numbers()
        return document | numbers


def empty_numbers() -> dict[str, Any]:
    """What a container that does not run uses."""
    return {
        "cpu_stats": _no_cpu(),
        "memory_stats": {},
        "pids_stats": {},
        "blkio_stats": {},
        "networks": {},
    }


def _no_cpu() -> dict[str, Any]:
    return {
        "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0, "percpu_usage": []},
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    }


def read_numbers(pid: int) -> dict[str, Any]:
    """Everything of the container whose main process is `pid`; blocking. Empty if it has ended."""
    try:
        groups = find_groups(Path(f"/proc/{pid}/cgroup").read_text(), CGROUPS)
        device_lines = Path(f"/proc/{pid}/net/dev").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return empty_numbers()
    return {
        "cpu_stats": _cpu(groups),
        "memory_stats": _memory(groups),
        "pids_stats": _pids(groups),
        "blkio_stats": _blkio(groups),
        "networks": parse_net_dev(device_lines),
    }


def find_groups(text: str, root: Path) -> Groups:
    """From the text of /proc/<pid>/cgroup. With v1 controllers mounted, those count."""
    controllers: dict[str, Path] = {}
    unified = ""
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            if not name:
                unified = path
            elif (root / name).is_dir():
                controllers[name] = root / name / path.lstrip("/")
    if controllers:
        return Groups(1, controllers)
    return Groups(2, {"": root / unified.lstrip("/")})


def parse_net_dev(text: str) -> dict[str, dict[str, int]]:
    """/proc/<pid>/net/dev by interface, loopback left out."""
    found: dict[str, dict[str, int]] = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = rest.split()
        if name.strip() != "lo":
            values = (int(numbers[column]) for column in _DEV_COLUMNS)
            found[name.strip()] = dict(zip(_COUNTERS, values, strict=True))
    return found


def _cpu(groups: Groups) -> dict[str, Any]:
    if groups.version == 1:
        directory = groups.directory("cpuacct")
        total = _number(directory / "cpuacct.usage")
        ticks = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        split = _pairs(directory / "cpuacct.stat")
        user, kernel = split.get("user", 0) * ticks, split.get("system", 0) * ticks
        percpu = [int(word) for word in _text(directory / "cpuacct.usage_percpu").split()]
        throttling = _pairs(groups.directory("cpu") / "cpu.stat")
        throttled_ns = throttling.get("throttled_time", 0)
    else:
        throttling = _pairs(groups.directory("cpu") / "cpu.stat")
        total = throttling.get("usage_usec", 0) * 1000
        user, kernel = throttling.get("user_usec", 0) * 1000, throttling.get("system_usec", 0) * 1000
        percpu = []
        throttled_ns = throttling.get("throttled_usec", 0) * 1000
    return {
        "cpu_usage": {
            "total_usage": total,
            "usage_in_kernelmode": kernel,
            "usage_in_usermode": user,
            "percpu_usage": percpu,
        },
        "system_cpu_usage": system_cpu_ns(_text(Path("/proc/stat"))),
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": {
            "periods": throttling.get("nr_periods", 0),
            "throttled_periods": throttling.get("nr_throttled", 0),
            "throttled_time": throttled_ns,
        },
    }


def system_cpu_ns(stat: str) -> int:
    """All CPU time of the machine since boot (user, nice, system, idle, iowait, irq, softirq), in nanoseconds."""
    words = stat.splitlines()[0].split()
    return sum(int(word) for word in words[1:8]) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def _memory(groups: Groups) -> dict[str, Any]:
    directory = groups.directory("memory")
    details = _pairs(directory / "memory.stat")
    if groups.version == 1:
        usage, largest = _number(directory / "memory.usage_in_bytes"), _number(directory / "memory.max_usage_in_bytes")
        failures = _number(directory / "memory.failcnt")
        limit = _number(directory / "memory.limit_in_bytes")
    else:
        usage, largest = _number(directory / "memory.current"), _number(directory / "memory.peak")
        failures = _pairs(directory / "memory.events").get("max", 0)
        limit = _number(directory / "memory.max") or _UNLIMITED
    if limit >= _UNLIMITED:
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"usage": usage, "max_usage": largest, "failcnt": failures, "limit": limit, "stats": details}


def _blkio(groups: Groups) -> dict[str, Any]:
    if groups.version == 1:
        directory = groups.directory("blkio")
        bytes_, count = (
            parse_blkio(_text(directory / f"blkio.throttle.{name}_recursive"))
            for name in ("io_service_bytes", "io_serviced")
        )
    else:
        bytes_, count = parse_io_stat(_text(groups.directory("") / "io.stat"))
    return {"io_service_bytes_recursive": bytes_, "io_serviced_recursive": count}


def parse_blkio(text: str) -> list[dict[str, Any]]:
    """Lines of `MAJOR:MINOR OPERATION NUMBER`."""
    found = []
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if len(words) == 4:
            found.append({"major": int(words[0]), "minor": int(words[1]), "op": words[2], "value": int(words[3])})
    return found


def parse_io_stat(text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(bytes, operations) of lines of `MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N ...`."""
    sums: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for line in text.splitlines():
        device, *words = line.split()
        values = dict(word.split("=", 1) for word in words if "=" in word)
        major, minor = (int(part) for part in device.split(":"))
        for rows, names in zip(sums, (("rbytes", "wbytes"), ("rios", "wios")), strict=True):
            for operation, name in zip(("read", "write"), names, strict=True):
                rows.append({"major": major, "minor": minor, "op": operation, "value": int(values.get(name, 0))})
    return sums


def _pids(groups: Groups) -> dict[str, int]:
    directory = groups.directory("pids")
    found = {"current": _number(directory / "pids.current")}
    limit = _number(directory / "pids.max")
    return found | ({"limit": limit} if limit else {})


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int:
    """A file that holds one number; 0 if it is not there or says `max`."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else 0


def _pairs(path: Path) -> dict[str, int]:
    """A file of `name number` lines."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}
