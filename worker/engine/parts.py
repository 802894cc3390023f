"""The seams between the engine's parts: what containers need of runtime, images, networks and volumes.

Each part satisfies its Protocol structurally; `daemon` joins them. Tests may put a fake behind any of them.
Paths are absolute. All calls raise `api.errors` kinds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from api.types.endpoint import EndpointSettings, PortBinding

STDIN, STDOUT, STDERR = 0, 1, 2


class Events(Protocol):
    """Where parts report what happened (v1.24 "Monitor Docker's events")."""

    def publish(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        """`kind` is container, image, network, volume, daemon or plugin. Never blocks, never drops silently."""
        ...


# --- runtime ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProcessIO:
    """How a process is wired to its monitor."""

    tty: bool = False
    stdin: bool = False
    """Keep a stdin open for attachers; otherwise it is /dev/null."""
    stdin_once: bool = False
    """Close stdin when the first attacher that had it leaves."""
    log_path: Path | None = None
    """Docker's json-file log; None writes no log."""
    log_max_bytes: int = 0
    """0: never rotated."""
    log_max_files: int = 1
    detached: bool = False
    """An exec nobody will attach to. Otherwise its output is kept for the first `attach`, from the first byte."""

    keep_exit: bool = False
    """An exec whose end can be adopted until `forget_exec`."""


@dataclass(frozen=True)
class ContainerPlan:
    """Everything the runtime needs to create one container."""

    id: str
    bundle: Path
    """Directory owned by the runtime while the container exists (config.json); the caller made it."""
    spec: dict[str, Any]
    """The OCI runtime specification (see worker.engine.runtime.spec)."""
    io: ProcessIO
    exit_file: Path
    """Where the monitor writes how it ended, durably, before it leaves: survives any crash of the daemon."""


@dataclass(frozen=True)
class Exit:
    """How a process ended."""

    code: int
    """0-255; 128+N when killed by signal N."""
    at_ns: int
    oom: bool = False
    error: str = ""


@dataclass(frozen=True)
class LogEnd:
    """Where a log ended at some moment."""

    inode: int
    """The file that was written then; 0 if there was none."""
    size: int
    rests: Mapping[int, bytes] = field(default_factory=dict)
    """By stream: the beginning of a line that was not in the file yet."""


class Stream(Protocol):
    """One attacher of a process. What a slow one has not taken waits in a bounded buffer; when that is full the
    process is held back, so that nothing is lost (`docker run ... | gzip`). One that takes nothing at all holds nobody
    back (runtime.peers: HOLD_SECONDS): more is kept for it, and when that is full, too, it is soon cut off."""

    log_end: LogEnd | None
    """What was in the log when this attacher began: everything after comes by it. None without a log."""

    def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        """(STDOUT or STDERR, data) until the process ends or the stream is closed. With a tty all is STDOUT."""
        ...

    async def write(self, data: bytes) -> None:
        """To the process's stdin; waits while it is full."""
        ...

    async def close_stdin(self) -> None: ...

    async def close(self) -> None:
        """Detach. The process is not told, but for `stdin_once`."""
        ...


class Process(Protocol):
    """A running (or created) main process or exec."""

    pid: int

    async def wait(self) -> Exit:
        """Its end. May be called many times, also after a restart of the daemon."""
        ...

    async def attach(self) -> Stream:
        """From now on; raises Conflict if it has ended."""
        ...

    async def resize(self, height: int, width: int) -> None: ...


class Runtime(Protocol):
    """Runs OCI containers under monitors that outlive the daemon."""

    def expect(self) -> None:
        """A process will be created in a moment: what can be readied for it is, in the background."""
        ...

    async def create(self, plan: ContainerPlan) -> Process:
        """Create the container; its process waits for `start`. On failure nothing is left.

        Raises: InvalidArgument / NotFound with the runtime's words when the command can't be run (Docker's texts:
        `executable file not found in $PATH` is matched by clients, who map it to exit 127; `permission denied` 126).
        """
        ...

    async def start(self, container_id: str) -> None: ...

    async def adopt(self, container_id: str, io: ProcessIO, exit_file: Path) -> Process | None:
        """A container that was running when the daemon went away; None if it is gone without a trace. If it
        ended meanwhile, `wait` of the result answers at once."""
        ...

    async def kill(self, container_id: str, signal: int) -> None:
        """To the main process. Raises NotFound if no process runs."""
        ...

    async def pause(self, container_id: str) -> None: ...

    async def resume(self, container_id: str) -> None: ...

    async def pids(self, container_id: str) -> list[int]:
        """All processes of the container, as host pids."""
        ...

    async def update(self, container_id: str, resources: dict[str, Any]) -> None:
        """Change limits live; `resources` is the OCI `linux.resources` object."""
        ...

    async def delete(self, container_id: str) -> None:
        """Remove what is left of an ended container (cgroup, state, sockets); idempotent."""
        ...

    async def exec(self, container_id: str, exec_id: str, process: dict[str, Any], io: ProcessIO) -> Process:
        """Start another process (OCI `process` object) in a running container."""
        ...

    async def adopt_exec(self, container_id: str, exec_id: str) -> Process | None:
        """As `adopt`, an exec with `keep_exit`."""
        ...

    async def forget_exec(self, container_id: str, exec_id: str) -> None:
        """The exit of an exec with `keep_exit` is known elsewhere; idempotent."""
        ...

    async def known(self) -> list[str]:
        """Ids of all containers of which anything exists, for reconciliation after a crash."""
        ...


# --- images ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageView:
    """What a container needs of an image."""

    id: str
    """`sha256:...` of the image configuration."""
    config: Mapping[str, Any]
    """The `config` object of the image JSON: Env, Cmd, Entrypoint, WorkingDir, User, Volumes, ExposedPorts, ..."""
    layers: Sequence[Path]
    """Unpacked layer directories, lowest first: the lowerdirs of a container's overlay."""


class Images(Protocol):
    async def resolve(self, reference: str) -> ImageView:
        """By name, name:tag, name@digest, id or unique id prefix.

        Raises NotFound `No such image: NAME:TAG` (the CLI matches `No such image` and pulls).
        """
        ...

    async def hold(self, image_id: str, holder: str) -> None:
        """`holder` (a container id) uses the image: it can't be removed. Durable."""
        ...

    async def release(self, image_id: str, holder: str) -> None: ...

    async def reconcile(self, holders: Collection[str]) -> None:
        """After a daemon start: release what others than `holders` held; a crash cut their creation short."""
        ...


# --- networks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkRequest:
    """What a container wants of the network when it starts."""

    container_id: str
    container_name: str
    hostname: str
    domainname: str = ""
    mode: str = "default"
    """`default`/`bridge`, `host`, `none`, `container:<id>` (resolved by the caller to a netns path in `join`), or a
    network's name or id."""
    join: Path | None = None
    endpoints: Mapping[str, EndpointSettings] = field(default_factory=dict)
    """Wished settings per network name (static address, aliases, links)."""
    ports: Mapping[str, Sequence[PortBinding]] = field(default_factory=dict)
    """`80/tcp` -> host bindings; an empty HostPort means an ephemeral one."""
    exposed: Sequence[str] = ()
    publish_all: bool = False
    dns: Sequence[str] = ()
    dns_search: Sequence[str] = ()
    dns_options: Sequence[str] = ()
    extra_hosts: Sequence[str] = ()
    mac_address: str = ""
    directory: Path = Path("/nonexistent")
    """Where hosts, hostname and resolv.conf are written (the container's directory)."""


@dataclass(frozen=True)
class Sandbox:
    """A container's place in the network."""

    netns: Path | None
    """Bind-mounted namespace; None shares the host's."""
    endpoints: Mapping[str, EndpointSettings]
    """As realised: addresses, gateway, ids."""
    ports: Mapping[str, Sequence[PortBinding] | None]
    """As realised: `NetworkSettings.Ports`."""
    hosts: Path
    hostname: Path
    resolv_conf: Path
    sandbox_id: str = ""


class Networks(Protocol):
    async def check(self, request: NetworkRequest) -> None:
        """At create: raises NotFound for an unknown network, InvalidArgument for settings that can't be."""
        ...

    async def attach(self, request: NetworkRequest) -> Sandbox:
        """At start: namespace, links, addresses, ports. Durable; on failure nothing is left (port in use: Docker's
        `driver failed programming external connectivity ... Bind for 0.0.0.0:8080 failed: port is already
        allocated`)."""
        ...

    async def detach(self, container_id: str) -> None:
        """At the end: everything back; idempotent."""
        ...

    async def sandbox(self, container_id: str) -> Sandbox | None:
        """What is attached now (after connect/disconnect, after the daemon's restart)."""
        ...

    async def connect(self, container_id: str, network: str, settings: EndpointSettings) -> EndpointSettings:
        """Give a running container one more endpoint (`network`: name or id); answers it as realised. Raises NotFound
        when the container has no sandbox, Forbidden when it already is on the network or shares another's."""
        ...

    async def disconnect(self, container_id: str, network: str, *, force: bool = False) -> None:
        """Take one endpoint of a running container away. Raises NotFound when it is not on the network."""
        ...

    async def reconcile(self, running: Sequence[str]) -> None:
        """After a daemon start: keep the sandboxes of `running`, remove all others, restore rules."""
        ...


# --- volumes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VolumeView:
    name: str
    driver: str
    mountpoint: Path | None
    """None as long as a volume plugin does not say."""
    created: bool
    """True if this call made it (then the image's content is copied up)."""


class Volumes(Protocol):
    async def ensure(self, name: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str]) -> VolumeView:
        """The volume of this name, made if it does not exist; an empty name makes an anonymous one."""
        ...

    async def mount(self, name: str, holder: str) -> Path:
        """The path to bind, kept mounted and unremovable until `unmount` by the same holder."""
        ...

    async def unmount(self, name: str, holder: str) -> None: ...

    async def hold(self, name: str, holder: str) -> None:
        """`holder` (a container, running or not) uses it: removal is a Conflict. Durable."""
        ...

    async def release(self, name: str, holder: str) -> None: ...

    async def reconcile(self, holders: Collection[str], users: Collection[str]) -> None:
        """After a daemon start: release what others than `holders` held, unmount what others than `users` mounted. An
        anonymous volume that is free by that is removed: its container never came to be."""
        ...

    async def remove(self, name: str) -> None: ...
