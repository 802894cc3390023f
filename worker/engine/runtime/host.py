"""What this machine and the daemon's own rights allow: read once at start and handed to the pure spec builder."""

from __future__ import annotations

import os
import resource
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from api.errors import InvalidArgument
from worker.engine.runtime import capabilities

RLIMITS: Mapping[str, int] = {
    name.removeprefix("RLIMIT_").lower(): getattr(resource, name)
    for name in dir(resource)
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}


@dataclass(frozen=True)
class Host:
    """Bounds the daemon can't hand out more than."""

    capabilities: frozenset[str] = frozenset(capabilities.ALL)
    hard_limits: Mapping[str, int] = field(default_factory=dict)
    """Docker's rlimit name (`nofile`) -> hard limit, -1 for none; only consulted without CAP_SYS_RESOURCE."""
    oom_score_adj_min: int = -1000
    cgroup_version: int = 1
    blkio_weight: bool = False
    blkio_throttle: bool = True
    swap_limit: bool = True
    pids: bool = True
    init: str = ""
    """The program that is pid 1 of containers with HostConfig.Init: static, because it runs in their roots."""


@dataclass(frozen=True)
class DeviceNode:
    """A device as it shall be in the container."""

    path: str
    type: str
    """`c` or `b`."""
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    access: str = "rwm"


INITS = ("docker-init", "tini-static")
"""Programs that serve: Docker's own, Debian's."""


def read_host(cgroups: Path = Path("/sys/fs/cgroup")) -> Host:
    """Read the bounds of this process and the cgroup controllers of this machine."""
    mask = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            mask = int(line.split()[1], 16)
    allowed = capabilities.from_mask(mask)
    version = 2 if (cgroups / "cgroup.controllers").exists() else 1
    minimum = -1000
    if "CAP_SYS_RESOURCE" not in allowed:
        minimum = int(Path("/proc/self/oom_score_adj").read_text())
    return Host(
        capabilities=allowed,
        hard_limits={name: resource.getrlimit(number)[1] for name, number in RLIMITS.items()},
        oom_score_adj_min=minimum,
        cgroup_version=version,
        blkio_weight=version == 2 or (cgroups / "blkio/blkio.weight").exists(),
        blkio_throttle=version == 2 or (cgroups / "blkio/blkio.throttle.read_bps_device").exists(),
        swap_limit=version == 2 or (cgroups / "memory/memory.memsw.limit_in_bytes").exists(),
        pids=version == 2 or (cgroups / "pids").exists(),
        init=next((found for name in INITS if (found := shutil.which(name)) is not None), ""),
    )


def memory_nodes(online: Path = Path("/sys/devices/system/node/online")) -> set[int]:
    """Numbers of the memory nodes; one where the kernel knows of none."""
    try:
        text = online.read_text().strip()
    except OSError:
        return {0}
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def device_node(on_host: str, in_container: str = "", access: str = "rwm") -> DeviceNode:
    """The device `on_host` for `--device HOST:CONTAINER:ACCESS`.

    Raises:
        InvalidArgument: there is no such device, or ACCESS has other letters than r, w and m.
    """
    if not access or set(access) - set("rwm"):
        raise InvalidArgument(f"invalid device mode: {access}")
    try:
        found = os.stat(on_host)
    except OSError as error:
        raise InvalidArgument(
            f'error gathering device information while adding custom device "{on_host}": {str(error.strerror).lower()}'
        ) from None
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise InvalidArgument(
            f'error gathering device information while adding custom device "{on_host}": not a device node'
        )
    return DeviceNode(
        path=in_container or on_host,
        type="c" if stat.S_ISCHR(found.st_mode) else "b",
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        access=access,
    )


def all_devices(root: Path = Path("/dev")) -> list[DeviceNode]:
    """Every device node of the host, for a privileged container; mounts of their own (pts, shm, mqueue) left out."""
    nodes = []
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if not os.path.ismount(os.path.join(directory, name))]
        for name in files:
            path = os.path.join(directory, name)
            if name != "console" and not os.path.islink(path):
                mode = os.lstat(path).st_mode
                if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                    nodes.append(device_node(path))
    return nodes
