"""What the daemon says of itself: info and version (v1.24 section 3.3), and a node's description to its swarm."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from api.types.auth import AuthConfig
from api.types.objects import NodeDescription
from api.types.system import IndexConfig, PluginNames, RegistryConfig, SwarmInfo, SystemInfo, VersionInfo
from api.wire import versions
from base.clock import Clock, rfc3339nano
from daemon import VERSION
from daemon.config import Config
from daemon.engine import Engine
from worker.agent.description import MEMINFO, describe, memory_bytes
from worker.engine.events.bus import Subscription
from worker.engine.runtime.host import read_host

NETWORK_DRIVERS = ("bridge", "host", "macvlan", "null", "overlay")


class System:
    """Satisfies `api.server.routers.system.SystemBackend`."""

    def __init__(self, config: Config, engine: Engine, clock: Clock, swarm: Callable[[], SwarmInfo]) -> None:
        self._config = config
        self._engine = engine
        self._clock = clock
        self._swarm = swarm
        self._host = read_host()
        self._memory = memory_bytes(MEMINFO.read_text())
        self._id = _engine_id(config.data_root)

    def version(self) -> VersionInfo:
        return VersionInfo(
            version=VERSION,
            api_version=versions.text(versions.NEWEST),
            min_api_version=versions.text(versions.OLDEST),
            git_commit="",
            go_version=f"none (Python {platform.python_version()})",
            arch=_go_arch(),
            kernel_version=platform.release(),
            build_time="",
        )

    async def info(self) -> SystemInfo:
        states = Counter(summary.state for summary in await self._engine.containers.list(all=True))
        running, paused, total = states["running"] + states["restarting"], states["paused"], states.total()
        return SystemInfo(
            id=self._id,
            containers=total,
            containers_running=running,
            containers_paused=paused,
            containers_stopped=total - running - paused,
            images=len(self._engine.store.index.images),
            driver="overlay2",
            driver_status=[("Backing Filesystem", _filesystem(self._config.data_root)), ("Supports d_type", "true")],
            docker_root_dir=str(self._config.data_root),
            plugins=PluginNames(volume=self._engine.volumes.drivers(), network=list(NETWORK_DRIVERS)),
            swap_limit=self._host.swap_limit,
            ipv4_forwarding=_is_on("/proc/sys/net/ipv4/ip_forward"),
            bridge_nf_iptables=_is_on("/proc/sys/net/bridge/bridge-nf-call-iptables"),
            bridge_nf_ip6tables=_is_on("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
            debug=self._config.log_level == "debug",
            n_fd=len(os.listdir("/proc/self/fd")),
            n_goroutines=len(asyncio.all_tasks()),
            n_events_listener=self._engine.events.subscriber_count(),
            system_time=rfc3339nano(self._clock.now_ns()),
            logging_driver=self._config.log_driver,
            kernel_version=platform.release(),
            operating_system=_operating_system(),
            architecture=platform.machine(),
            registry_config=_registries(self._config),
            ncpu=len(os.sched_getaffinity(0)),
            mem_total=self._memory,
            http_proxy=os.environ.get("HTTP_PROXY", ""),
            https_proxy=os.environ.get("HTTPS_PROXY", ""),
            no_proxy=os.environ.get("NO_PROXY", ""),
            name=socket.gethostname(),
            labels=list(self._config.labels),
            server_version=VERSION,
            security_options=["seccomp"],
            runtimes={self._config.runtime: {"path": self._config.runtime}},
            default_runtime=self._config.runtime,
            swarm=self._swarm(),
        )

    def reload(self, config: Config) -> None:
        """Say `config` of itself from now on, and tell that it did."""
        self._config = config
        self._engine.events.publish("daemon", "reload", self._id, _reload_attributes(config))

    def events(self, since_ns: int | None, until_ns: int | None, wanted: dict[str, list[str]]) -> Subscription:
        return self._engine.events.subscribe(since_ns, until_ns, wanted)

    async def check_auth(self, auth: AuthConfig) -> str:
        return await self._engine.images.log_in(auth)

    def description(self) -> NodeDescription:
        """This node, for the managers: what the scheduler may count on."""
        labels = dict(label.partition("=")[::2] for label in self._config.labels)
        volumes = [("Volume", name) for name in self._engine.volumes.drivers()]
        plugins = [*volumes, *(("Network", name) for name in NETWORK_DRIVERS)]
        return describe(VERSION, labels, plugins)


def _reload_attributes(config: Config) -> dict[str, str]:
    """What a reload event tells: the settings in force, lists as JSON."""
    lists = {
        "labels": config.labels,
        "registry-mirrors": config.registry_mirrors,
        "insecure-registries": config.insecure_registries,
    }
    return {
        "name": socket.gethostname(),
        "debug": "true" if config.log_level == "debug" else "false",
        "default-runtime": config.runtime,
        "live-restore": "true",
        **{name: json.dumps(values, separators=(",", ":")) for name, values in lists.items()},
    }


def _registries(config: Config) -> RegistryConfig:
    hub = IndexConfig(name="docker.io", mirrors=list(config.registry_mirrors), official=True)
    others = {name: IndexConfig(name=name, secure=False) for name in config.insecure_registries if "/" not in name}
    networks = ["127.0.0.0/8", *(name for name in config.insecure_registries if "/" in name)]
    return RegistryConfig(
        insecure_registry_cidrs=networks,
        index_configs={"docker.io": hub, **others},
        mirrors=list(config.registry_mirrors),
    )


def _engine_id(data_root: Path) -> str:
    """A stable id in Docker's twelve groups of four, from the machine and the data root."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = socket.gethostname()
    digest = hashlib.sha256(f"{machine}:{data_root}".encode()).digest()
    letters = "".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[byte % 32] for byte in (digest + digest)[:48])
    return ":".join(letters[at : at + 4] for at in range(0, 48, 4))


def _go_arch() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _filesystem(path: Path) -> str:
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mountpoint, filesystem, *_ = line.split(" ")
        if str(path).startswith(mountpoint) and len(mountpoint) >= len(best):
            best, kind = mountpoint, filesystem
    return {"ext4": "extfs", "ext3": "extfs"}.get(kind, kind)


def _is_on(path: str) -> bool:
    try:
        return Path(path).read_text().strip() == "1"
    except OSError:
        return False
