"""The RPC methods between the nodes of a swarm, declared once for both of their ends.

Each method names the roles (certificate OU) that may call it; a server registers it with exactly these.
"""

from __future__ import annotations

from typing import Final

from api.rpc.methods import Method, Shape
from api.types.dispatch import (
    AssignmentsMessage,
    AssignmentsRequest,
    ForwardRequest,
    ForwardResponse,
    GetRootCARequest,
    GetRootCAResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    IssueCertificateRequest,
    IssueCertificateResponse,
    RaftJoinRequest,
    RaftJoinResponse,
    RaftLeaveRequest,
    RaftLeaveResponse,
    SessionMessage,
    SessionRequest,
    UpdateTaskStatusRequest,
    UpdateTaskStatusResponse,
)

WORKER: Final = "swarm-worker"
MANAGER: Final = "swarm-manager"
JOIN_WORKER: Final = "swarm-join-worker"
JOIN_MANAGER: Final = "swarm-join-manager"
RENEW: Final = "swarm-renew"
"""A node whose certificate expired while it was off: good for a new one, and for nothing else."""

NODES: Final = frozenset({WORKER, MANAGER})
"""Any node of the swarm: a manager runs an agent too."""
MANAGERS: Final = frozenset({MANAGER})
ANYONE: Final = frozenset({WORKER, MANAGER, JOIN_WORKER, JOIN_MANAGER, RENEW})
"""Nodes, former ones in time too, and those that hold a join token."""

DISPATCHER_SESSION: Final = Method("/shoal.Dispatcher/Session", SessionRequest, SessionMessage, Shape.SERVER_STREAM)
DISPATCHER_HEARTBEAT: Final = Method("/shoal.Dispatcher/Heartbeat", HeartbeatRequest, HeartbeatResponse)
DISPATCHER_UPDATE_STATUS: Final = Method(
    "/shoal.Dispatcher/UpdateTaskStatus", UpdateTaskStatusRequest, UpdateTaskStatusResponse
)
DISPATCHER_ASSIGNMENTS: Final = Method(
    "/shoal.Dispatcher/Assignments", AssignmentsRequest, AssignmentsMessage, Shape.SERVER_STREAM
)

CA_GET_ROOT: Final = Method("/shoal.CA/GetRootCA", GetRootCARequest, GetRootCAResponse)
CA_ISSUE: Final = Method("/shoal.CA/IssueCertificate", IssueCertificateRequest, IssueCertificateResponse)

RAFT_JOIN: Final = Method("/shoal.RaftMembership/Join", RaftJoinRequest, RaftJoinResponse)
RAFT_LEAVE: Final = Method("/shoal.RaftMembership/Leave", RaftLeaveRequest, RaftLeaveResponse)

CONTROL_CALL: Final = Method("/shoal.Control/Call", ForwardRequest, ForwardResponse)
