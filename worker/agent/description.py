"""What a node tells the swarm of its host: the scheduler counts with the resources, constraints match the rest."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from api.types.objects import EngineDescription, NodeDescription
from base.clock import NS

MEMINFO = Path("/proc/meminfo")


def memory_bytes(meminfo: str) -> int:
    """MemTotal of /proc/meminfo's text, in bytes; 0 if it is not there."""
    for line in meminfo.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def describe(
    engine_version: str, labels: Mapping[str, str], plugins: Iterable[tuple[str, str]] = ()
) -> NodeDescription:
    """The host as it is now.

    Args:
        labels: the engine's own (`--label`).
        plugins: (type, name) pairs, `("Volume", "local")`.
    """
    return NodeDescription(
        hostname=socket.gethostname(),
        os="linux",
        architecture=platform.machine(),
        nano_cpus=len(os.sched_getaffinity(0)) * NS,
        memory_bytes=memory_bytes(MEMINFO.read_text()),
        engine=EngineDescription(engine_version=engine_version, labels=dict(labels), plugins=sorted(plugins)),
    )
