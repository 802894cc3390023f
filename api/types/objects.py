"""Swarm domain objects as the managers' store holds them and as nodes receive them.

Spec is the user's, status is observed, `meta.version` is the Raft index of the last change. Ids link upward only
(a task names its service). Times are nanoseconds since the epoch. Views for the HTTP API are made in `api.server`.
"""

from __future__ import annotations

import enum

from api.types.base import Record
from api.types.swarm import IPAMPool, NetworkSpec, NodeSpec, PortConfig, ServiceSpec, SwarmSpec, TaskSpec


class TaskState(enum.IntEnum):
    """In order: a task's observed state never goes back."""

    NEW = 0
    ALLOCATED = 64
    PENDING = 128
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    ORPHANED = 832

    @property
    def terminal(self) -> bool:
        """No process runs, and none will."""
        return self > TaskState.RUNNING

    @property
    def label(self) -> str:
        """The lower-case word of the API."""
        return self.name.lower()


class Meta(Record, frozen=True, kw_only=True):
    version: int = 0
    """Raft index of the last change; an update must name it."""
    created_at: int = 0
    updated_at: int = 0


class EngineDescription(Record, frozen=True, kw_only=True):
    engine_version: str = ""
    labels: dict[str, str] = {}
    plugins: list[tuple[str, str]] = []
    """(type, name) pairs."""


class NodeDescription(Record, frozen=True, kw_only=True):
    hostname: str = ""
    os: str = "linux"
    architecture: str = "x86_64"
    nano_cpus: int = 0
    memory_bytes: int = 0
    engine: EngineDescription = EngineDescription()
    root_digest: str = ""
    """Of the root that signed the certificate which the node shows now."""


class NodeState(enum.StrEnum):
    UNKNOWN = "unknown"
    DOWN = "down"
    READY = "ready"
    DISCONNECTED = "disconnected"


class NodeStatus(Record, frozen=True, kw_only=True):
    state: NodeState = NodeState.UNKNOWN
    message: str = ""
    addr: str = ""


class ManagerStatus(Record, frozen=True, kw_only=True):
    """Kept for managers only; leader and reachability are observed by Raft and filled in when read."""

    raft_id: int = 0
    addr: str = ""
    leader: bool = False
    reachability: str = "unknown"
    """`unknown`, `unreachable` or `reachable`."""


class Certificate(Record, frozen=True, kw_only=True):
    role: str = "worker"
    csr_pem: bytes = b""
    certificate_pem: bytes = b""
    state: str = "pending"
    """`pending`, `issued` or `failed`."""
    message: str = ""


class NetworkAttachment(Record, frozen=True, kw_only=True):
    network_id: str
    addresses: list[str] = []
    """With prefix length, `10.0.0.3/24`."""
    aliases: list[str] = []


class Node(Record, frozen=True, kw_only=True):
    id: str
    meta: Meta = Meta()
    spec: NodeSpec = NodeSpec()
    description: NodeDescription | None = None
    status: NodeStatus = NodeStatus()
    manager_status: ManagerStatus | None = None
    role: str = "worker"
    """The role the node has now (its certificate); `spec.role` is the role it should have."""
    certificate: Certificate = Certificate()
    attachments: list[NetworkAttachment] = []
    """The node's own place on networks: its gate of the routing mesh on the ingress network."""


class UpdateStatus(Record, frozen=True, kw_only=True):
    state: str = ""
    """`updating`, `paused` or `completed`."""
    started_at: int = 0
    completed_at: int = 0
    message: str = ""


class VirtualIP(Record, frozen=True, kw_only=True):
    network_id: str
    addr: str
    """Address with prefix length, `10.0.0.2/24`."""


class Endpoint(Record, frozen=True, kw_only=True):
    mode: str = "vip"
    ports: list[PortConfig] = []
    """With every published port filled in."""
    virtual_ips: list[VirtualIP] = []


class Service(Record, frozen=True, kw_only=True):
    id: str
    meta: Meta = Meta()
    spec: ServiceSpec = ServiceSpec()
    previous_spec: ServiceSpec | None = None
    spec_version: int = 0
    """Raft index at which `spec` last changed; tasks carry the one they were made from."""
    endpoint: Endpoint | None = None
    update_status: UpdateStatus | None = None
    registry_auth: str = ""
    """The X-Registry-Auth header of the last create or update, for the nodes that pull. Never logged."""


class TaskStatus(Record, frozen=True, kw_only=True):
    timestamp: int = 0
    state: TaskState = TaskState.NEW
    message: str = ""
    err: str = ""
    container_id: str = ""
    pid: int = 0
    exit_code: int = 0


class Task(Record, frozen=True, kw_only=True):
    id: str
    meta: Meta = Meta()
    service_id: str = ""
    service_name: str = ""
    slot: int = 0
    """1, 2, … within a replicated service; 0 for a global one."""
    node_id: str = ""
    spec: TaskSpec = TaskSpec()
    spec_version: int = 0
    labels: dict[str, str] = {}
    """The service's labels when the task was made."""
    status: TaskStatus = TaskStatus()
    desired_state: TaskState = TaskState.RUNNING
    networks: list[NetworkAttachment] = []
    endpoint: Endpoint | None = None
    registry_auth: str = ""
    """As the service's when the task was made. Never logged."""
    moved_from: str = ""
    """The node that the slot's task left to even out the load (manager/orchestrator/balance.py); "" for all others."""

    @property
    def name(self) -> str:
        """The container's name: `service.slot.id`, `service.node.id` for a global service."""
        return f"{self.service_name}.{self.slot or self.node_id}.{self.id}"


class JoinTokens(Record, frozen=True, kw_only=True):
    worker: str = ""
    manager: str = ""


class RootCA(Record, frozen=True, kw_only=True):
    certificate_pem: bytes = b""
    key_pem: bytes = b""
    """Empty when an external CA signs."""


class RootRotation(Record, frozen=True, kw_only=True):
    """The root is being replaced (ca/rotation.py)."""

    root_ca: RootCA = RootCA()
    """The new one: it signs already."""
    cross_signed_pem: bytes = b""
    """Its key, certified by the old root."""
    began: int = 0
    """Nanoseconds since the epoch."""


class Cluster(Record, frozen=True, kw_only=True):
    id: str
    meta: Meta = Meta()
    spec: SwarmSpec = SwarmSpec()
    root_ca: RootCA = RootCA()
    join_tokens: JoinTokens = JoinTokens()
    removed_nodes: list[str] = []
    """Node ids whose certificates are refused."""
    root_rotation: RootRotation | None = None


class SwarmNetwork(Record, frozen=True, kw_only=True):
    """A network of swarm scope. The allocator fills in what the spec leaves open."""

    id: str
    meta: Meta = Meta()
    spec: NetworkSpec = NetworkSpec()
    vni: int = 0
    """VXLAN network id; 0 until it is allocated."""
    pools: list[IPAMPool] = []
    """The subnets with their gateways, as allocated."""

    @property
    def allocated(self) -> bool:
        return self.vni != 0
