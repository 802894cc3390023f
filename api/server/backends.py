"""What the swarm routers need from below, as Protocols: `daemon` joins them with the manager's control API.

Every method raises error kinds of `api.errors`; `ClusterBackend.control` raises NotInSwarm on a node that is no
manager.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from api.types.cluster import SwarmInit, SwarmJoin
from api.types.objects import Cluster, Node, Service, SwarmNetwork, Task
from api.types.swarm import NetworkSpec, NodeSpec, ServiceSpec, SwarmSpec

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
WORKER_NOT_A_MANAGER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this "
    "command on a manager node or promote the current node to a manager."
)
ALREADY_IN_SWARM = (
    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.'
)

Filters = Mapping[str, Sequence[str]]
"""Filter name -> wanted values; values of one name are alternatives, names must all match."""


class ControlBackend(Protocol):
    """The control API of a manager. Reads are linearizable; writes are durable on a majority before they return.

    `ref` is an id, a unique prefix of one, or a name. Raises NotFound, InvalidArgument (ambiguous prefix),
    OutOfSequence (`version` is not the current one) and Unavailable (no leader).
    """

    async def get_cluster(self) -> Cluster: ...

    async def update_cluster(
        self,
        spec: SwarmSpec,
        version: int,
        *,
        rotate_worker_token: bool = False,
        rotate_manager_token: bool = False,
        worker_token: str = "",
        manager_token: str = "",
    ) -> None:
        """A given token replaces the present one; what is rotated gets a new one whatever was given."""
        ...

    async def list_nodes(self, filters: Filters) -> list[Node]: ...

    async def get_node(self, ref: str) -> Node: ...

    async def update_node(self, ref: str, spec: NodeSpec, version: int) -> None: ...

    async def remove_node(self, ref: str, *, force: bool = False) -> None: ...

    async def list_services(self, filters: Filters) -> list[Service]: ...

    async def get_service(self, ref: str) -> Service: ...

    async def create_service(self, spec: ServiceSpec, auth: str = "") -> str:
        """Returns the new service's id. `auth` is the X-Registry-Auth header as it came."""
        ...

    async def update_service(self, ref: str, spec: ServiceSpec, version: int, auth: str = "") -> None: ...

    async def remove_service(self, ref: str) -> None: ...

    async def list_networks(self) -> list[SwarmNetwork]: ...

    async def get_network(self, ref: str) -> SwarmNetwork: ...

    async def create_network(self, spec: NetworkSpec) -> str:
        """Returns the new network's id."""
        ...

    async def remove_network(self, ref: str) -> None: ...

    async def list_tasks(self, filters: Filters) -> list[Task]: ...

    async def get_task(self, ref: str) -> Task: ...


class ClusterBackend(Protocol):
    """This node's membership in a swarm."""

    def control(self) -> ControlBackend:
        """The control API. Raises NotInSwarm on a node that is not a manager."""
        ...

    async def init(self, request: SwarmInit) -> str:
        """Create a swarm of this node; returns the node's id. Raises NotInSwarm (406) when it is in one already."""
        ...

    async def join(self, request: SwarmJoin) -> None: ...

    async def leave(self, *, force: bool) -> None: ...
