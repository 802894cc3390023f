"""From a container's record to what the runtime runs: the OCI settings. Pure: everything that has to be looked up
(user, devices, namespaces of other containers, mounted volumes) comes in resolved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from api.errors import Internal, InvalidArgument
from api.types.container import HostConfig
from api.types.container import Resources as Limits
from worker.engine.containers.config import command_line, merge_env
from worker.engine.containers.kit import Layout
from worker.engine.containers.records import ContainerRecord, MountRecord
from worker.engine.containers.security import check_security, oci_seccomp
from worker.engine.logs.drivers.options import log_file_limits
from worker.engine.parts import ProcessIO, Sandbox
from worker.engine.runtime import capabilities
from worker.engine.runtime.host import DeviceNode, Host
from worker.engine.runtime.spec import (
    ContainerSettings,
    Mount,
    ProcessSettings,
    Resources,
    Rlimit,
    Throttle,
    environment,
)
from worker.engine.runtime.users import Identity

INIT_TARGET = "/sbin/docker-init"
_TMPFS_DEFAULTS = ("noexec", "nosuid", "nodev")
_TMPFS_FLAGS_TEXT = (
    "defaults exec noexec suid nosuid dev nodev rw ro sync async dirsync atime noatime diratime "
    "nodiratime relatime norelatime strictatime nostrictatime mand nomand remount private rprivate slave "
    "rslave shared rshared"
)
_TMPFS_FLAGS = frozenset(_TMPFS_FLAGS_TEXT.split())
_TMPFS_VALUES = frozenset({"mode", "uid", "gid", "nr_inodes", "nr_blocks", "size", "mpol"})


@dataclass(frozen=True)
class Surroundings:
    """What was looked up for this run."""

    identity: Identity
    sandbox: Sandbox
    sources: Mapping[str, Path] = field(default_factory=dict)
    """Destination -> host path of each mount in the record."""
    devices: Sequence[DeviceNode] = ()
    pid_ns: str = ""
    ipc_ns: str = ""
    ipc_owner: int = 0
    """The process whose ipc namespace is joined; 0 is none."""
    throttles: Mapping[str, Sequence[Throttle]] = field(default_factory=dict)
    link_env: Sequence[str] = ()
    """What links on the default bridge tell."""


def settings(record: ContainerRecord, layout: Layout, around: Surroundings, host: Host) -> ContainerSettings:
    """The runtime's settings for one run."""
    config, wish = record.config, record.host_config
    security = check_security(wish.security_opt or [])
    chosen = chosen_capabilities(wish, host)
    return ContainerSettings(
        id=record.id,
        process=ProcessSettings(
            args=[*_init(record, host), *command_line(config)],
            env=process_env(record, around.identity, merge_env(config.env or [], around.link_env), tty=config.tty),
            cwd=config.working_dir or "/",
            user=around.identity.user,
            tty=config.tty,
            capabilities=chosen,
            no_new_privileges=security.no_new_privileges,
            rlimits=[Rlimit(limit.name, limit.soft, limit.hard) for limit in wish.ulimits or []],
            oom_score_adj=wish.oom_score_adj or None,
        ),
        rootfs=layout.merged(record.id),
        readonly_rootfs=wish.readonly_rootfs,
        privileged=wish.privileged,
        hostname=config.hostname,
        domainname=config.domainname,
        mounts=[*mounts(record, around), *_init_mount(record, host)],
        netns=around.sandbox.netns,
        pid_ns=around.pid_ns,
        ipc_ns=around.ipc_ns,
        uts_ns="host" if wish.uts_mode == "host" else "",
        shm_bytes=wish.shm_size,
        resources=replace(resources(wish), throttles=around.throttles),
        devices=around.devices,
        sysctls=wish.sysctls or {},
        seccomp_profile=oci_seccomp(security.seccomp, chosen),
        cgroup_parent=wish.cgroup_parent,
    )


def _init(record: ContainerRecord, host: Host) -> list[str]:
    """What stands before the command of a container with an init: only where it would be pid 1. Raises Internal."""
    if not record.host_config.init or record.host_config.pid_mode:
        return []
    if not host.init:
        raise Internal('exec: "docker-init": executable file not found in $PATH')
    return [INIT_TARGET, "--"]


def _init_mount(record: ContainerRecord, host: Host) -> list[Mount]:
    return [Mount(INIT_TARGET, host.init, "bind", ("bind", "ro", "rprivate"))] if _init(record, host) else []


def chosen_capabilities(wish: HostConfig, host: Host) -> tuple[str, ...]:
    """Capabilities of the container's main process."""
    return capabilities.choose(
        privileged=wish.privileged,
        add=wish.cap_add or [],
        drop=wish.cap_drop or [],
        bounding=host.capabilities,
    )


def process_env(record: ContainerRecord, identity: Identity, env: Sequence[str], *, tty: bool) -> list[str]:
    """Docker's defaults, then `env`; HOME comes from the user unless it is set, and then is last."""
    found = environment(env, hostname=record.config.hostname, tty=tty)
    if not any(entry.startswith("HOME=") for entry in found):
        found.append(f"HOME={identity.home}")
    return found


def resources(limits: Limits) -> Resources:
    """Limits as the runtime takes them: 0 and "" mean none."""
    return Resources(
        memory=limits.memory or None,
        memory_swap=limits.memory_swap or None,
        memory_reservation=limits.memory_reservation or None,
        memory_swappiness=limits.memory_swappiness,
        oom_kill_disable=bool(limits.oom_kill_disable),
        cpu_shares=limits.cpu_shares or None,
        cpu_quota=limits.cpu_quota or None,
        cpu_period=limits.cpu_period or None,
        cpuset_cpus=limits.cpuset_cpus,
        cpuset_mems=limits.cpuset_mems,
        pids_limit=limits.pids_limit or None,
        blkio_weight=limits.blkio_weight or None,
    )


def mounts(record: ContainerRecord, around: Surroundings) -> list[Mount]:
    """Network files, volumes and binds, tmpfs; a user's own mount at a path takes the place of ours."""
    found: dict[str, Mount] = {}
    access = "ro" if record.host_config.readonly_rootfs else "rw"
    for target, path in (
        ("/etc/resolv.conf", around.sandbox.resolv_conf),
        ("/etc/hostname", around.sandbox.hostname),
        ("/etc/hosts", around.sandbox.hosts),
    ):
        found[target] = Mount(target, str(path), "bind", ("rbind", access, "rprivate"))
    for mount in record.mounts:
        found[mount.destination] = _bind(mount, around.sources[mount.destination])
    for target, options in (record.host_config.tmpfs or {}).items():
        found[target] = Mount(target, "tmpfs", "tmpfs", tmpfs_options(options))
    return list(found.values())


def _bind(mount: MountRecord, source: Path) -> Mount:
    return Mount(
        mount.destination,
        str(source),
        "bind",
        ("rbind", "rw" if mount.rw else "ro", mount.propagation or "rprivate"),
    )


def tmpfs_options(text: str) -> tuple[str, ...]:
    """Docker's defaults, each replaced by its opposite if the user says so. Raises InvalidArgument."""
    wanted = [option for option in text.split(",") if option]
    for option in wanted:
        name, equals, _ = option.partition("=")
        if name not in (_TMPFS_VALUES if equals else _TMPFS_FLAGS):
            raise InvalidArgument(f'Invalid tmpfs option "{option}"')
    defaults = [option for option in _TMPFS_DEFAULTS if option.removeprefix("no") not in wanted]
    return tuple(dict.fromkeys([*defaults, *(option for option in wanted if option != "defaults")]))


def process_io(record: ContainerRecord, layout: Layout) -> ProcessIO:
    """How the main process is wired."""
    log = record.host_config.log_config
    to_file = log.type != "none"
    largest, files = log_file_limits(log) if to_file else (0, 1)
    return ProcessIO(
        tty=record.config.tty,
        stdin=record.config.open_stdin,
        stdin_once=record.config.stdin_once,
        log_path=layout.log(record.id) if to_file else None,
        log_max_bytes=largest,
        log_max_files=files,
    )
