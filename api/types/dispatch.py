"""Messages between a worker's agent and the managers' dispatcher, and of the node CA. MessagePack over gRPC.

The server takes the node's identity from its certificate, never from a message.
"""

from __future__ import annotations

from api.types.base import Record
from api.types.dataplane import Overlay, OverlayService
from api.types.objects import NodeDescription, Task, TaskStatus


class SessionRequest(Record, frozen=True, kw_only=True):
    description: NodeDescription
    session_id: str = ""
    """Of the session before, if any; the dispatcher answers with a new one."""


class ManagerPeer(Record, frozen=True, kw_only=True):
    node_id: str
    addr: str
    weight: int = 1


class SessionMessage(Record, frozen=True, kw_only=True):
    """First message: the session's id. Later ones: changed lists. The stream ends when the session does."""

    session_id: str
    managers: list[ManagerPeer] = []
    role: str = "worker"
    """The role the node should have: a change makes it renew its certificate."""
    root_ca_pem: bytes = b""
    """What to trust: a change makes the node follow it."""
    heartbeat_period_ns: int = 0


class HeartbeatRequest(Record, frozen=True, kw_only=True):
    session_id: str
    applied_index: int = 0
    """Index of the assignments the node has applied."""


class HeartbeatResponse(Record, frozen=True, kw_only=True):
    period_ns: int


class TaskStatusUpdate(Record, frozen=True, kw_only=True):
    task_id: str
    status: TaskStatus


class UpdateTaskStatusRequest(Record, frozen=True, kw_only=True):
    session_id: str
    updates: list[TaskStatusUpdate]


class UpdateTaskStatusResponse(Record, frozen=True, kw_only=True):
    pass


class AssignmentsRequest(Record, frozen=True, kw_only=True):
    session_id: str


class AssignmentsMessage(Record, frozen=True, kw_only=True):
    """The first is complete (what is absent is to be removed), later ones are increments, gap-free by `sequence`."""

    complete: bool
    sequence: int
    index: int
    """Raft index that this message brings the node up to."""
    update_tasks: list[Task] = []
    remove_tasks: list[str] = []
    update_networks: list[Overlay] = []
    remove_networks: list[str] = []
    """Network ids; their services go with them."""
    update_services: list[OverlayService] = []
    remove_services: list[str] = []
    """Keys of `OverlayService`."""
    more: bool = False
    """Another part of this message follows, with the same sequence: it counts when all parts are there."""


class GetRootCARequest(Record, frozen=True, kw_only=True):
    pass


class GetRootCAResponse(Record, frozen=True, kw_only=True):
    root_ca_pem: bytes


class IssueCertificateRequest(Record, frozen=True, kw_only=True):
    csr_pem: bytes
    """Only the public key in it counts; name and role are the CA's decision."""


class IssueCertificateResponse(Record, frozen=True, kw_only=True):
    node_id: str
    role: str
    certificate_pem: bytes
    """Leaf followed by the chain."""
    root_ca_pem: bytes = b""
    """What to trust: one root, or two while one replaces the other."""
    cluster_id: str = ""
    renewal_pem: bytes = b""
    """For the same key: asks for a new certificate when this one has expired, and can do nothing else."""
    intermediates_pem: bytes = b""
    """While the root is replaced: shown along with both, for those who know only the old root."""


class RaftJoinRequest(Record, frozen=True, kw_only=True):
    addr: str
    """Where the joiner's manager port can be reached; an empty host is filled in from the connection."""


class RaftPeer(Record, frozen=True, kw_only=True):
    raft_id: int
    node_id: str
    addr: str


class RaftJoinResponse(Record, frozen=True, kw_only=True):
    raft_id: int
    peers: list[RaftPeer]


class RaftLeaveRequest(Record, frozen=True, kw_only=True):
    node_id: str


class RaftLeaveResponse(Record, frozen=True, kw_only=True):
    pass


class ForwardRequest(Record, frozen=True, kw_only=True):
    """A control-API call that a follower passes to the leader: method name and its arguments in MessagePack."""

    method: str
    arguments: bytes


class ForwardResponse(Record, frozen=True, kw_only=True):
    result: bytes
