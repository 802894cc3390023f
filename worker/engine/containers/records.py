"""What is kept of a container in the `containers` table. Written before it is answered; read once at start."""

from __future__ import annotations

import msgspec

from api.types.base import Record
from api.types.container import ContainerConfig, HostConfig
from api.types.endpoint import EndpointSettings
from worker.engine.containers.states import Status

TABLE = "containers"


class MountRecord(Record, frozen=True, kw_only=True):
    """One bind or volume."""

    type: str
    """`bind` or `volume`."""
    name: str = ""
    """The volume's name; empty for a bind."""
    source: str = ""
    destination: str
    driver: str = ""
    mode: str = ""
    """The options as the user wrote them."""
    rw: bool = True
    propagation: str = ""
    anonymous: bool = False
    """Made for this container alone: goes with it when its volumes are removed too."""
    copy_up: bool = False
    """Still to be filled from the image, if it is empty at the first start."""

    def filled(self) -> MountRecord:
        """Once that is done."""
        return msgspec.structs.replace(self, copy_up=False)


class ContainerRecord(Record, frozen=True, kw_only=True):
    """A container. `config` and `host_config` are treated as frozen."""

    id: str
    name: str
    """Without a slash."""
    created_ns: int
    image_id: str
    config: ContainerConfig
    """As merged with the image's."""
    host_config: HostConfig
    endpoints: dict[str, EndpointSettings] = {}
    """Wished settings by network name."""
    on_no_network: bool = False
    """Taken off its last network; the next start joins the one of its mode again."""
    path: str
    args: list[str] = []
    mounts: list[MountRecord] = []
    status: Status = Status.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0
    restart_count: int = 0
    failures: int = 0
    """Restarts in a row that the policy counts and delays by; cleared by a run of ten seconds."""
    manually_stopped: bool = False
    remove_volumes: bool = False
    """A removal that has begun takes the anonymous volumes, too."""
