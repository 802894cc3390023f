"""What every noun of this package works with: the engine's other parts, the table, places on disk, the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from api.types.container import LogConfig
from base.clock import Clock
from base.offload import Pool
from base.supervise import TaskOwner
from worker.engine.containers.store import ContainerStore
from worker.engine.events.bus import EventBus
from worker.engine.parts import Images, Networks, Runtime, Volumes
from worker.engine.runtime.host import Host
from worker.engine.syscalls.inotify import Directories

DISK_THREADS = 4


@dataclass(frozen=True)
class Layout:
    """Where a container's files are."""

    data_root: Path
    exec_root: Path

    @property
    def containers(self) -> Path:
        return self.data_root / "containers"

    @property
    def init(self) -> Path:
        """A layer above every image: the places that are mounted over, so that they are no change of a container."""
        return self.data_root / "init"

    @property
    def bundles(self) -> Path:
        return self.exec_root / "bundles"

    @property
    def execs(self) -> Path:
        """Records of execs."""
        return self.exec_root / "execs"

    def directory(self, container_id: str) -> Path:
        return self.containers / container_id

    def upper(self, container_id: str) -> Path:
        return self.directory(container_id) / "upper"

    def work(self, container_id: str) -> Path:
        return self.directory(container_id) / "work"

    def merged(self, container_id: str) -> Path:
        return self.directory(container_id) / "merged"

    def log(self, container_id: str) -> Path:
        return self.directory(container_id) / f"{container_id}-json.log"

    def sent(self, container_id: str) -> Path:
        """How far the log has been sent by a remote log driver."""
        return self.directory(container_id) / "sent.json"

    def exit_file(self, container_id: str) -> Path:
        return self.directory(container_id) / "exit.json"

    def bundle(self, container_id: str) -> Path:
        return self.bundles / container_id


@dataclass
class Kit:
    """Joined once, by `engine.Containers`."""

    runtime: Runtime
    images: Images
    networks: Networks
    volumes: Volumes
    events: EventBus
    store: ContainerStore
    layout: Layout
    clock: Clock
    host: Host
    """As read at start (`start_up`)."""
    log_default: LogConfig = field(default_factory=LogConfig)
    """The log driver of containers that name none, and its options."""
    directories: Directories = field(default_factory=Directories)
    """Tells followers of logs that there is more."""
    disk: Pool = field(default_factory=lambda: Pool("containers", DISK_THREADS))
    owner: TaskOwner = field(default_factory=lambda: TaskOwner("containers"))
