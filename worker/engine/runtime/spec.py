"""The OCI runtime specification of a container, built from our own settings. Pure.

Defaults are Docker's: mounts, masked paths, device rules, 14 capabilities, seccomp. Nothing is asked for that the
daemon can't give (`Host`): capabilities beyond its bounding set are left out, rlimits are lowered to its hard limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api.errors import InvalidArgument
from worker.engine.runtime import capabilities as caps
from worker.engine.runtime import seccomp
from worker.engine.runtime.host import RLIMITS, DeviceNode, Host

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MIB = 1024 * 1024
DEFAULT_SHM_BYTES = 64 * MIB

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


_THROTTLE_WARNINGS = {
    "weightDevice": "Block I/O weight_device or the cgroup is not mounted. Weight-device",
    "throttleReadBpsDevice": "BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit",
    "throttleWriteBpsDevice": "BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit",
    "throttleReadIOPSDevice": "IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit",
    "throttleWriteIOPSDevice": "IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit",
}


@dataclass(frozen=True)
class User:
    """Numeric, as `users.resolve` finds it."""

    uid: int = 0
    gid: int = 0
    additional_gids: Sequence[int] = ()


@dataclass(frozen=True)
class Rlimit:
    """`HostConfig.Ulimits`: name without RLIMIT_ in lower case; -1 is unlimited."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True)
class Mount:
    """One more mount; one at the path of a default mount replaces that."""

    target: str
    source: str = ""
    type: str = "bind"
    """`bind`, `tmpfs`, ..."""
    options: Sequence[str] = ()
    """`ro`, `rprivate`, `size=64m`, ...; a bind is recursive without being told."""


@dataclass(frozen=True)
class ProcessSettings:
    """One process: a container's main one or an exec."""

    args: Sequence[str]
    env: Sequence[str] = ()
    """As it shall be; see `environment` for Docker's defaults."""
    cwd: str = "/"
    user: User = User()
    tty: bool = False
    capabilities: Sequence[str] = caps.DEFAULT
    """See `capabilities.choose`."""
    no_new_privileges: bool = False
    rlimits: Sequence[Rlimit] = ()
    oom_score_adj: int | None = None


@dataclass(frozen=True)
class Throttle:
    """A limit of one block device: bytes or operations per second, or a weight."""

    major: int
    minor: int
    value: int


@dataclass(frozen=True)
class Resources:
    """Limits; None is no limit. Also for live updates (`oci_resources`)."""

    memory: int | None = None
    """Bytes."""
    memory_swap: int | None = None
    """Bytes of memory and swap together; -1 is unlimited swap. Unset with `memory`: twice the memory."""
    memory_reservation: int | None = None
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    cpu_shares: int | None = None
    cpu_quota: int | None = None
    """Microseconds in each period."""
    cpu_period: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int | None = None
    """-1 is unlimited."""
    blkio_weight: int | None = None
    throttles: Mapping[str, Sequence[Throttle]] = field(default_factory=dict)
    """By the name of OCI's list: `weightDevice`, `throttleReadBpsDevice`, ..."""


@dataclass(frozen=True)
class ContainerSettings:
    """Everything the specification of one container is made of."""

    id: str
    process: ProcessSettings
    rootfs: Path
    """Mounted root, absolute."""
    readonly_rootfs: bool = False
    privileged: bool = False
    """All devices, nothing masked, no seccomp, writable /sys and cgroups. The capabilities are the caller's:
    `capabilities.choose(privileged=True)`."""
    hostname: str = ""
    """Not set with the host's uts namespace."""
    domainname: str = ""
    mounts: Sequence[Mount] = ()
    netns: Path | None = None
    """None shares the host's."""
    new_netns: bool = False
    """A namespace of its own instead, with a loopback link and nothing else."""
    pid_ns: str = ""
    """"" is private, `host`, or the path of another one (`/proc/<pid>/ns/pid`)."""
    ipc_ns: str = ""
    uts_ns: str = ""
    shm_bytes: int = DEFAULT_SHM_BYTES
    resources: Resources = Resources()
    devices: Sequence[DeviceNode] = ()
    """See `host.device_node`, and `host.all_devices` for privileged ones."""
    device_rules: Sequence[str] = ()
    """More cgroup rules: `c 1:3 rwm`."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    masked_paths: Sequence[str] | None = None
    """None: Docker's."""
    readonly_paths: Sequence[str] | None = None
    seccomp_profile: str | Mapping[str, Any] = "default"
    """`default`, `unconfined`, or an OCI `linux.seccomp` object."""
    cgroup_parent: str = ""
    """Default `/shoal`; the container's cgroup is `<parent>/<id>`."""
    annotations: Mapping[str, str] = field(default_factory=dict)


def environment(env: Sequence[str], *, hostname: str = "", tty: bool = False) -> list[str]:
    """Docker's PATH, HOSTNAME and TERM (with a tty), then `env`, whose later entries replace earlier ones of a name."""
    merged: dict[str, str] = {}
    defaults = [PATH, *([f"HOSTNAME={hostname}"] if hostname else []), *(["TERM=xterm"] if tty else [])]
    for entry in [*defaults, *env]:
        name, equals, _ = entry.partition("=")
        if equals:
            merged[name] = entry
        else:
            merged.pop(name, None)
    return list(merged.values())


def build(settings: ContainerSettings, host: Host) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        InvalidArgument: a setting has a value that can't be (unknown rlimit, malformed device rule, no command).
    """
    own_uts = settings.uts_ns == ""
    linux: dict[str, Any] = {
        "namespaces": _namespaces(settings, host),
        "cgroupsPath": cgroup_path(settings.id, settings.cgroup_parent),
        "resources": oci_resources(settings.resources, host) | {"devices": _device_rules(settings)},
        "devices": [_device(node) for node in settings.devices],
    }
    sysctls = dict(settings.sysctls)
    if own_uts and settings.domainname:
        sysctls.setdefault("kernel.domainname", settings.domainname)
    if sysctls:
        linux["sysctl"] = sysctls
    if not settings.privileged:
        linux["maskedPaths"] = list(MASKED_PATHS if settings.masked_paths is None else settings.masked_paths)
        linux["readonlyPaths"] = list(READONLY_PATHS if settings.readonly_paths is None else settings.readonly_paths)
    profile = _seccomp(settings)
    if profile is not None:
        linux["seccomp"] = profile
    propagation = _root_propagation(settings.mounts)
    if propagation:
        linux["rootfsPropagation"] = propagation
    spec: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": process(settings.process, host),
        "root": {"path": str(settings.rootfs), "readonly": settings.readonly_rootfs},
        "mounts": _mounts(settings, host),
        "linux": linux,
        "annotations": dict(settings.annotations),
    }
    if own_uts and settings.hostname:
        spec["hostname"] = settings.hostname
    return spec


def process(settings: ProcessSettings, host: Host) -> dict[str, Any]:
    """The OCI `process` object, for `build` and for an exec.

    Raises:
        InvalidArgument: no command, a relative directory, or an unknown rlimit.
    """
    if not settings.args:
        raise InvalidArgument("No command specified")
    if not settings.cwd.startswith("/"):
        raise InvalidArgument(f"the working directory '{settings.cwd}' is invalid, it needs to be an absolute path")
    bounding = [name for name in settings.capabilities if name in host.capabilities]
    # Only root starts with capabilities in force; another user can gain them (setuid files) up to the bounding set.
    effective = bounding if settings.user.uid == 0 else []
    result: dict[str, Any] = {
        "terminal": settings.tty,
        "user": {
            "uid": settings.user.uid,
            "gid": settings.user.gid,
            "additionalGids": list(settings.user.additional_gids),
        },
        "args": list(settings.args),
        "env": list(settings.env),
        "cwd": settings.cwd,
        "capabilities": {"bounding": bounding, "effective": effective, "permitted": effective},
        "noNewPrivileges": settings.no_new_privileges,
        "rlimits": [_rlimit(limit, host) for limit in settings.rlimits],
    }
    if settings.oom_score_adj is not None:
        result["oomScoreAdj"] = max(settings.oom_score_adj, host.oom_score_adj_min)
    return result


def cgroup_path(container_id: str, parent: str = "") -> str:
    """A container's cgroup, below each controller's root."""
    return f"/{parent.strip('/') or 'shoal'}/{container_id}"


def oci_resources(resources: Resources, host: Host) -> dict[str, Any]:
    """The OCI `linux.resources` object without device rules; what the machine lacks is left out (see `warnings`)."""
    memory: dict[str, Any] = {
        "limit": resources.memory,
        "reservation": resources.memory_reservation,
        "swappiness": resources.memory_swappiness,
        "disableOOMKiller": resources.oom_kill_disable or None,
    }
    if host.swap_limit:
        swap = resources.memory_swap
        if swap is None and resources.memory and resources.memory > 0:
            swap = 2 * resources.memory
        memory["swap"] = swap
    cpu = {
        "shares": resources.cpu_shares,
        "quota": resources.cpu_quota,
        "period": resources.cpu_period,
        "cpus": resources.cpuset_cpus or None,
        "mems": resources.cpuset_mems or None,
    }
    result: dict[str, Any] = {"memory": _present(memory), "cpu": _present(cpu)}
    # No limit is the default of a new cgroup, and crun has no word for it.
    if resources.pids_limit is not None and resources.pids_limit > 0 and host.pids:
        result["pids"] = {"limit": resources.pids_limit}
    result["blockIO"] = _block_io(resources, host)
    return {key: value for key, value in result.items() if value}


def _block_io(resources: Resources, host: Host) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if resources.blkio_weight is not None and host.blkio_weight:
        result["weight"] = resources.blkio_weight
    for name, throttles in resources.throttles.items():
        word = "weight" if name == "weightDevice" else "rate"
        if throttles and (host.blkio_weight if word == "weight" else host.blkio_throttle):
            result[name] = [{"major": each.major, "minor": each.minor, word: each.value} for each in throttles]
    return result


def warnings(resources: Resources, host: Host) -> list[str]:
    """Docker's warnings for limits this machine can't keep, which `oci_resources` leaves out."""
    found = []
    if resources.blkio_weight and not host.blkio_weight:
        found.append("Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.")
    for name, text in _THROTTLE_WARNINGS.items():
        works = host.blkio_weight if name == "weightDevice" else host.blkio_throttle
        if resources.throttles.get(name) and not works:
            found.append(f"Your kernel does not support {text} discarded.")
    if resources.memory_swap and resources.memory_swap > 0 and not host.swap_limit:
        found.append(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
            "Memory limited without swap."
        )
    if resources.pids_limit and resources.pids_limit > 0 and not host.pids:
        found.append(
            "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."
        )
    return found


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _namespaces(settings: ContainerSettings, host: Host) -> list[dict[str, str]]:
    result: list[dict[str, str]] = [{"type": "mount"}]
    for kind, wish in (("pid", settings.pid_ns), ("ipc", settings.ipc_ns), ("uts", settings.uts_ns)):
        if wish == "":
            result.append({"type": kind})
        elif wish != "host":
            result.append({"type": kind, "path": wish})
    if settings.new_netns:
        result.append({"type": "network"})
    elif settings.netns is not None:
        result.append({"type": "network", "path": str(settings.netns)})
    if host.cgroup_version == 2 and not settings.privileged:
        result.append({"type": "cgroup"})
    return result


def _mounts(settings: ContainerSettings, host: Host) -> list[dict[str, Any]]:
    rights = "rw" if settings.privileged else "ro"
    default = [
        Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
        Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        Mount(
            "/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
        ),
        _sysfs(settings, rights),
        Mount("/sys/fs/cgroup", "cgroup", "cgroup", (rights, "nosuid", "noexec", "nodev")),
        Mount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
        _shm(settings),
    ]
    wanted = {mount.target for mount in settings.mounts}
    # Sorted by depth, so that a mount never hides one below it.
    mounts = [mount for mount in default if mount.target not in wanted]
    mounts += sorted(settings.mounts, key=lambda mount: mount.target.rstrip("/").count("/"))
    return [_mount(mount) for mount in mounts]


def _sysfs(settings: ContainerSettings, rights: str) -> Mount:
    if settings.netns is None and not settings.new_netns:
        # A sysfs belongs to the network namespace of who mounts it: with the host's it has to be bound.
        return Mount("/sys", "/sys", "bind", (rights, "nosuid", "noexec", "nodev"))
    return Mount("/sys", "sysfs", "sysfs", (rights, "nosuid", "noexec", "nodev"))


def _shm(settings: ContainerSettings) -> Mount:
    if settings.ipc_ns == "host":
        return Mount("/dev/shm", "/dev/shm", "bind", ("nosuid", "noexec", "nodev"))
    return Mount("/dev/shm", "shm", "tmpfs", ("nosuid", "noexec", "nodev", "mode=1777", f"size={settings.shm_bytes}"))


def _mount(mount: Mount) -> dict[str, Any]:
    options = list(mount.options)
    if mount.type == "bind" and not {"bind", "rbind"} & set(options):
        options.insert(0, "rbind")
    return {
        "destination": mount.target,
        "type": mount.type,
        "source": mount.source or mount.type,
        "options": options,
    }


def _root_propagation(mounts: Sequence[Mount]) -> str:
    options = {option for mount in mounts for option in mount.options}
    if options & {"shared", "rshared"}:
        return "shared"
    return "rslave" if options & {"slave", "rslave"} else ""


def _device_rules(settings: ContainerSettings) -> list[dict[str, Any]]:
    if settings.privileged:
        return [{"allow": True, "access": "rwm"}]
    rules = [{"allow": False, "access": "rwm"}]
    # mknod of anything, use of the harmless ones: null, zero, full, random, urandom, tty, ptmx, pts.
    for kind in "cb":
        rules.append({"allow": True, "type": kind, "access": "m"})
    for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None)):
        rule = {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        rules.append(_present(rule))
    for node in settings.devices:
        rules.append(
            {"allow": True, "type": node.type, "major": node.major, "minor": node.minor, "access": node.access}
        )
    rules += [_parse_device_rule(rule) for rule in settings.device_rules]
    return rules


def _parse_device_rule(text: str) -> dict[str, Any]:
    parts = text.split()
    if len(parts) != 3 or parts[0] not in "abc" or ":" not in parts[1] or not parts[2] or set(parts[2]) - set("rwm"):
        raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
    numbers = {}
    for name, number in zip(("major", "minor"), parts[1].split(":", 1), strict=True):
        if number != "*":
            if not number.isdecimal():
                raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
            numbers[name] = int(number)
    return {"allow": True, "type": parts[0], "access": parts[2], **numbers}


def _device(node: DeviceNode) -> dict[str, Any]:
    return {
        "path": node.path,
        "type": node.type,
        "major": node.major,
        "minor": node.minor,
        "fileMode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
    }


def _rlimit(limit: Rlimit, host: Host) -> dict[str, Any]:
    if limit.name not in RLIMITS:
        raise InvalidArgument(f"invalid ulimit type: {limit.name}")
    if limit.hard != -1 and (limit.soft > limit.hard or limit.soft == -1):
        raise InvalidArgument(
            f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}"
        )
    ceiling = host.hard_limits.get(limit.name, -1)
    if "CAP_SYS_RESOURCE" in host.capabilities:
        ceiling = -1
    return {
        "type": f"RLIMIT_{limit.name.upper()}",
        "soft": _clamp(limit.soft, ceiling),
        "hard": _clamp(limit.hard, ceiling),
    }


def _clamp(value: int, ceiling: int) -> int:
    unlimited = 2**64 - 1
    if ceiling == -1:
        return unlimited if value == -1 else value
    return ceiling if value == -1 else min(value, ceiling)


def _seccomp(settings: ContainerSettings) -> dict[str, Any] | None:
    wish = settings.seccomp_profile
    if not isinstance(wish, str):
        return dict(wish)
    if wish == "default":
        return None if settings.privileged else seccomp.profile(settings.process.capabilities)
    if wish == "unconfined":
        return None
    raise InvalidArgument(f"invalid seccomp profile: {wish!r}")
