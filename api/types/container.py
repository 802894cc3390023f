"""Bodies of the container endpoints (v1.24 section 3.1): what a client asks for and what it reads back.

An unset list or map is `None` and written as `null`, as Docker does; whoever reads one says `or []`.
A key that a client sends as `null` counts as absent.
"""

from __future__ import annotations

from typing import Any

import msgspec

from api.types.base import Api
from api.types.endpoint import EndpointSettings, PortBinding

DEFAULT_SHM_BYTES = 64 * 1024 * 1024


class Empty(Api, kw_only=True):
    """The `{}` that Docker uses as the value of a set."""


class HealthConfig(Api, omit_defaults=True, kw_only=True):
    """Times in nanoseconds; 0 inherits."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0


class ContainerConfig(Api, kw_only=True):
    """What does not depend on the host."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Empty] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | str | None = None
    healthcheck: HealthConfig | None = None
    image: str = ""
    volumes: dict[str, Empty] | None = None
    working_dir: str = ""
    entrypoint: list[str] | str | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | int = ""


class RestartPolicy(Api, kw_only=True):
    name: str = ""
    maximum_retry_count: int = 0


class LogConfig(Api, kw_only=True):
    type: str = ""
    config: dict[str, str] | None = None


class DeviceMapping(Api, kw_only=True):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class Ulimit(Api, kw_only=True):
    name: str = ""
    soft: int = 0
    hard: int = 0


class WeightDevice(Api, kw_only=True):
    path: str = ""
    weight: int = 0


class ThrottleDevice(Api, kw_only=True):
    path: str = ""
    rate: int | str = 0


class Resources(Api, kw_only=True):
    """Limits that can also be changed later (update). Bytes, microseconds, counts."""

    cpu_shares: int = 0
    memory: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = msgspec.field(name="BlkioDeviceReadIOps", default=None)
    blkio_device_write_iops: list[ThrottleDevice] | None = msgspec.field(name="BlkioDeviceWriteIOps", default=None)
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = msgspec.field(name="CpusetCpus", default="")
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    kernel_memory: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_percent: int = 0
    io_maximum_iops: int = msgspec.field(name="IOMaximumIOps", default=0)
    io_maximum_bandwidth: int = msgspec.field(name="IOMaximumBandwidth", default=0)


class HostConfig(Resources, kw_only=True):
    """What depends on the host."""

    binds: list[str] | None = None
    container_id_file: str = ""
    log_config: LogConfig = msgspec.field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    restart_policy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    dns: list[str] | None = msgspec.field(name="Dns", default=None)
    dns_options: list[str] | None = msgspec.field(name="DnsOptions", default=None)
    dns_search: list[str] | None = msgspec.field(name="DnsSearch", default=None)
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = msgspec.field(name="PidMode", default="")
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = ""
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    console_size: list[int] | None = None
    init: bool | None = None


class NetworkingConfig(Api, kw_only=True):
    endpoints_config: dict[str, EndpointSettings] | None = None


class CreateBody(ContainerConfig, kw_only=True):
    """POST /containers/create."""

    host_config: HostConfig = msgspec.field(default_factory=HostConfig)
    networking_config: NetworkingConfig = msgspec.field(default_factory=NetworkingConfig)


class CreateAnswer(Api, kw_only=True):
    id: str = msgspec.field(name="Id")
    warnings: list[str] = msgspec.field(default_factory=list)


class UpdateBody(Resources, kw_only=True):
    """POST /containers/{id}/update; a 0, "" or absent field stays as it is."""

    restart_policy: RestartPolicy | None = None


class WarningsAnswer(Api, kw_only=True):
    warnings: list[str] = msgspec.field(default_factory=list)


class WaitAnswer(Api, kw_only=True):
    status_code: int


class TopAnswer(Api, kw_only=True):
    titles: list[str]
    processes: list[list[str]]


class Change(Api, kw_only=True):
    path: str
    kind: int
    """0 modified, 1 added, 2 deleted."""


class PathStat(Api, kw_only=True):
    """The header X-Docker-Container-Path-Stat, before base64."""

    name: str = msgspec.field(name="name")
    size: int = msgspec.field(name="size")
    mode: int = msgspec.field(name="mode")
    """Permissions, and the kind in the high bits: 1 << 31 is a directory."""
    mtime: str = msgspec.field(name="mtime")
    link_target: str = msgspec.field(name="linkTarget", default="")


class MountPoint(Api, kw_only=True):
    """A volume or bind of a container."""

    name: str = ""
    source: str = ""
    destination: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = msgspec.field(name="RW", default=True)
    propagation: str = ""
    type: str = ""


class Port(Api, omit_defaults=True, kw_only=True):
    """One exposed or published port in the list."""

    ip: str = ""
    private_port: int
    public_port: int = 0
    type: str


class SummaryHostConfig(Api, kw_only=True):
    network_mode: str


class SummaryNetworks(Api, kw_only=True):
    networks: dict[str, EndpointSettings]


class ContainerSummary(Api, kw_only=True):
    """One item of GET /containers/json."""

    id: str = msgspec.field(name="Id")
    names: list[str]
    image: str
    image_id: str
    command: str
    created: int
    ports: list[Port]
    size_rw: int | msgspec.UnsetType = msgspec.UNSET
    size_root_fs: int | msgspec.UnsetType = msgspec.UNSET
    labels: dict[str, str]
    state: str
    status: str
    host_config: SummaryHostConfig
    network_settings: SummaryNetworks
    mounts: list[MountPoint]


class HealthResult(Api, kw_only=True):
    start: str
    end: str
    exit_code: int
    output: str


class Health(Api, kw_only=True):
    status: str
    failing_streak: int
    log: list[HealthResult]


class ContainerState(Api, kw_only=True):
    status: str
    running: bool
    paused: bool
    restarting: bool
    oom_killed: bool = msgspec.field(name="OOMKilled")
    dead: bool
    pid: int = msgspec.field(name="Pid")
    exit_code: int
    error: str
    started_at: str
    finished_at: str
    health: Health | msgspec.UnsetType = msgspec.UNSET


class NetworkSettings(Api, kw_only=True):
    """The addresses at the top level repeat those on the default bridge."""

    bridge: str = ""
    sandbox_id: str = ""
    hairpin_mode: bool = False
    link_local_ipv6_address: str = msgspec.field(name="LinkLocalIPv6Address", default="")
    link_local_ipv6_prefix_len: int = msgspec.field(name="LinkLocalIPv6PrefixLen", default=0)
    ports: dict[str, list[PortBinding] | None] | None = None
    sandbox_key: str = ""
    secondary_ip_addresses: list[Any] | None = None
    secondary_ipv6_addresses: list[Any] | None = msgspec.field(name="SecondaryIPv6Addresses", default=None)
    endpoint_id: str = ""
    gateway: str = ""
    global_ipv6_address: str = msgspec.field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = msgspec.field(name="GlobalIPv6PrefixLen", default=0)
    ip_address: str = ""
    ip_prefix_len: int = 0
    ipv6_gateway: str = msgspec.field(name="IPv6Gateway", default="")
    mac_address: str = ""
    networks: dict[str, EndpointSettings] = msgspec.field(default_factory=dict)


class GraphDriver(Api, kw_only=True):
    name: str
    data: dict[str, str] | None = None


class ContainerInspect(Api, kw_only=True):
    """GET /containers/{id}/json."""

    id: str = msgspec.field(name="Id")
    created: str
    path: str
    args: list[str]
    state: ContainerState
    image: str
    resolv_conf_path: str
    hostname_path: str
    hosts_path: str
    log_path: str
    name: str
    restart_count: int
    driver: str
    mount_label: str = ""
    process_label: str = ""
    app_armor_profile: str = ""
    exec_ids: list[str] | None = None
    host_config: HostConfig
    graph_driver: GraphDriver
    size_rw: int | msgspec.UnsetType = msgspec.UNSET
    size_root_fs: int | msgspec.UnsetType = msgspec.UNSET
    mounts: list[MountPoint]
    config: ContainerConfig
    network_settings: NetworkSettings
