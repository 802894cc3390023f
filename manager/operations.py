"""The changes that only the leader makes, as values: they run in place or travel to the leader, with one meaning.

`OPERATIONS` is the table of what may be forwarded, with the type of each answer: the trust boundary of
`/shoal.Control/Call`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from api.types.base import Record
from api.types.dispatch import RaftJoinResponse
from api.types.swarm import NetworkSpec, NodeSpec, ServiceSpec, SwarmSpec


class Operation(Record, frozen=True, kw_only=True):
    """Base of all."""


class CreateService(Operation, frozen=True, kw_only=True):
    spec: ServiceSpec
    auth: str = ""


class UpdateService(Operation, frozen=True, kw_only=True):
    ref: str
    spec: ServiceSpec
    version: int
    auth: str = ""


class RemoveService(Operation, frozen=True, kw_only=True):
    ref: str


class CreateNetwork(Operation, frozen=True, kw_only=True):
    spec: NetworkSpec


class RemoveNetwork(Operation, frozen=True, kw_only=True):
    ref: str


class UpdateNode(Operation, frozen=True, kw_only=True):
    ref: str
    spec: NodeSpec
    version: int


class RemoveNode(Operation, frozen=True, kw_only=True):
    ref: str
    force: bool = False


class UpdateCluster(Operation, frozen=True, kw_only=True):
    spec: SwarmSpec
    version: int
    rotate_worker_token: bool = False
    rotate_manager_token: bool = False
    worker_token: str = ""
    """Given by the user; empty leaves the present one."""
    manager_token: str = ""


class RegisterNode(Operation, frozen=True, kw_only=True):
    """The CA issued this certificate."""

    node_id: str
    role: str
    certificate_pem: bytes


class JoinMember(Operation, frozen=True, kw_only=True):
    """A node with a manager's certificate wants to be a Raft member, reachable at `addr`."""

    node_id: str
    addr: str


class LeaveMember(Operation, frozen=True, kw_only=True):
    node_id: str


class MoveMember(Operation, frozen=True, kw_only=True):
    """A manager that is a Raft member already is reached at another address now."""

    node_id: str
    addr: str


class RotateRoot(Operation, frozen=True, kw_only=True):
    """Begin to replace the swarm's root certificate and key (ca/rotation.py)."""


class GetMembers(Operation, frozen=True, kw_only=True):
    """How the leader sees the Raft members."""


class MemberState(Record, frozen=True, kw_only=True):
    leader: bool = False
    reachable: bool = False


Members = dict[str, MemberState]
"""By Raft id, written as text (MessagePack maps and JSON agree on text keys)."""

OPERATIONS: Final[dict[type[Operation], Any]] = {
    CreateService: str,
    UpdateService: None,
    RemoveService: None,
    CreateNetwork: str,
    RemoveNetwork: None,
    UpdateNode: None,
    RemoveNode: None,
    UpdateCluster: None,
    RegisterNode: None,
    JoinMember: RaftJoinResponse,
    LeaveMember: None,
    MoveMember: None,
    RotateRoot: None,
    GetMembers: Members,
}
"""Each operation and the type of its answer."""

BY_NAME: Final = {kind.__name__: kind for kind in OPERATIONS}

Execute = Callable[[Any], Awaitable[Any]]
Handlers = dict[type[Operation], Execute]
"""What runs an operation on the leader."""
