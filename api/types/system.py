"""Daemon-wide answers (v1.24 section 3.3): info, version, auth."""

from __future__ import annotations

import msgspec

from api.types.base import Api


class PluginNames(Api):
    volume: list[str] = []
    network: list[str] = []
    authorization: list[str] | None = None


class IndexConfig(Api):
    name: str
    mirrors: list[str] = []
    secure: bool = True
    official: bool = False


class RegistryConfig(Api):
    insecure_registry_cidrs: list[str] = msgspec.field(name="InsecureRegistryCIDRs", default_factory=list)
    index_configs: dict[str, IndexConfig] = {}
    mirrors: list[str] = []


class RemoteManager(Api):
    node_id: str
    addr: str


class SwarmInfo(Api):
    node_id: str = ""
    node_addr: str = ""
    local_node_state: str = "inactive"
    """`inactive`, `pending`, `active` or `error`."""
    control_available: bool = False
    error: str = ""
    remote_managers: list[RemoteManager] | None = None
    nodes: int = 0
    managers: int = 0
    cluster: dict[str, object] | None = None


class SystemInfo(Api):
    id: str
    containers: int
    containers_running: int
    containers_paused: int
    containers_stopped: int
    images: int
    driver: str
    driver_status: list[tuple[str, str]]
    docker_root_dir: str
    system_status: list[tuple[str, str]] | None = None
    plugins: PluginNames = msgspec.field(default_factory=PluginNames)
    memory_limit: bool = True
    swap_limit: bool = True
    kernel_memory: bool = False
    cpu_cfs_period: bool = True
    cpu_cfs_quota: bool = True
    cpu_shares: bool = msgspec.field(name="CPUShares", default=True)
    cpu_set: bool = msgspec.field(name="CPUSet", default=True)
    ipv4_forwarding: bool = True
    bridge_nf_iptables: bool = msgspec.field(name="BridgeNfIptables", default=True)
    bridge_nf_ip6tables: bool = msgspec.field(name="BridgeNfIp6tables", default=True)
    debug: bool = False
    n_fd: int = 0
    oom_kill_disable: bool = True
    n_goroutines: int = 0
    """Running asyncio tasks: the nearest thing here."""
    system_time: str = ""
    execution_driver: str = ""
    logging_driver: str = "json-file"
    cgroup_driver: str = "cgroupfs"
    n_events_listener: int = 0
    kernel_version: str = ""
    operating_system: str = ""
    os_type: str = msgspec.field(name="OSType", default="linux")
    architecture: str = ""
    index_server_address: str = "https://index.docker.io/v1/"
    registry_config: RegistryConfig = msgspec.field(default_factory=RegistryConfig)
    init_sha1: str = ""
    init_path: str = ""
    ncpu: int = msgspec.field(name="NCPU", default=1)
    mem_total: int = 0
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    name: str = ""
    labels: list[str] = []
    experimental_build: bool = False
    server_version: str = ""
    cluster_store: str = ""
    cluster_advertise: str = ""
    security_options: list[str] = []
    runtimes: dict[str, dict[str, str]] = {}
    default_runtime: str = ""
    swarm: SwarmInfo = msgspec.field(default_factory=SwarmInfo)
    live_restore_enabled: bool = True
    isolation: str = ""
    warnings: list[str] = []


class VersionInfo(Api):
    version: str
    api_version: str
    git_commit: str
    go_version: str
    """Clients expect the field; it names the Python that runs us."""
    os: str = msgspec.field(name="Os", default="linux")
    arch: str = "amd64"
    kernel_version: str = ""
    build_time: str = ""
    experimental: bool = False
    min_api_version: str = msgspec.field(name="MinAPIVersion", default="")


class AuthAnswer(Api):
    status: str
    identity_token: str = ""
