"""The control API as the HTTP server sees it, on any manager: reads here after a barrier, writes at the leader.

Satisfies `api.server.backends.ControlBackend` structurally.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from api.errors import ShoalError
from api.types.objects import Cluster, Node, Service, SwarmNetwork, Task
from api.types.swarm import NetworkSpec, NodeSpec, ServiceSpec, SwarmSpec
from ca.rotation import waiting_for
from manager import operations as ops
from manager.controlapi.lookup import Filters, find_node, find_service, find_task, list_nodes, list_services, list_tasks
from manager.controlapi.networks import find_network
from manager.store.store import Store
from manager.store.view import View


class Leader(Protocol):
    """The way to the leader, which may be this manager."""

    async def execute(self, operation: ops.Operation) -> Any:
        """Run an operation on the leader and return its answer. Raises Unavailable when there is none."""
        ...

    async def read_barrier(self) -> None:
        """Afterwards the local store shows everything that was acknowledged before the call."""
        ...


class Control:
    """One for a manager's life."""

    def __init__(self, store: Store, leader: Leader, node_id: str) -> None:
        self._store = store
        self._leader = leader
        self._node_id = node_id

    async def _view(self) -> View:
        await self._leader.read_barrier()
        return self._store.view()

    # --- the swarm ----------------------------------------------------------------------------------------------

    async def get_cluster(self) -> Cluster:
        cluster = (await self._view()).cluster()
        assert cluster is not None, "the first manager writes the cluster before it serves"
        return cluster

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
        await self._leader.execute(
            ops.UpdateCluster(
                spec=spec,
                version=version,
                rotate_worker_token=rotate_worker_token,
                rotate_manager_token=rotate_manager_token,
                worker_token=worker_token,
                manager_token=manager_token,
            )
        )

    async def rotate_root(self) -> None:
        """Begin to replace the swarm's root. Raises Conflict, InvalidArgument as `ca.rotation.begun`."""
        await self._leader.execute(ops.RotateRoot())

    async def root_rotation(self) -> tuple[Cluster, list[Node]]:
        """The cluster, and the nodes that a replacement of its root waits for."""
        cluster = await self.get_cluster()
        return cluster, waiting_for(cluster, self._store.view().all(Node))

    # --- nodes --------------------------------------------------------------------------------------------------

    async def list_nodes(self, filters: Filters) -> list[Node]:
        nodes = list_nodes(await self._view(), filters)
        members = await self._members()
        return [with_reachability(node, members) for node in nodes]

    async def get_node(self, ref: str) -> Node:
        node = find_node(await self._view(), self._node_id if ref == "self" else ref)
        return with_reachability(node, await self._members())

    async def update_node(self, ref: str, spec: NodeSpec, version: int) -> None:
        await self._leader.execute(ops.UpdateNode(ref=ref, spec=spec, version=version))

    async def remove_node(self, ref: str, *, force: bool = False) -> None:
        await self._leader.execute(ops.RemoveNode(ref=ref, force=force))

    async def _members(self) -> ops.Members:
        """Empty when the leader was lost since the barrier: then nobody knows who can be reached."""
        try:
            members: ops.Members = await self._leader.execute(ops.GetMembers())
        except ShoalError:
            return {}
        return members

    # --- services -----------------------------------------------------------------------------------------------

    async def list_services(self, filters: Filters) -> list[Service]:
        return list_services(await self._view(), filters)

    async def get_service(self, ref: str) -> Service:
        return find_service(await self._view(), ref)

    async def create_service(self, spec: ServiceSpec, auth: str = "") -> str:
        return str(await self._leader.execute(ops.CreateService(spec=spec, auth=auth)))

    async def update_service(self, ref: str, spec: ServiceSpec, version: int, auth: str = "") -> None:
        await self._leader.execute(ops.UpdateService(ref=ref, spec=spec, version=version, auth=auth))

    async def remove_service(self, ref: str) -> None:
        await self._leader.execute(ops.RemoveService(ref=ref))

    # --- networks -----------------------------------------------------------------------------------------------

    async def list_networks(self) -> list[SwarmNetwork]:
        return (await self._view()).all(SwarmNetwork)

    async def get_network(self, ref: str) -> SwarmNetwork:
        return find_network(await self._view(), ref)

    async def create_network(self, spec: NetworkSpec) -> str:
        return str(await self._leader.execute(ops.CreateNetwork(spec=spec)))

    async def remove_network(self, ref: str) -> None:
        await self._leader.execute(ops.RemoveNetwork(ref=ref))

    # --- tasks --------------------------------------------------------------------------------------------------

    async def list_tasks(self, filters: Filters) -> list[Task]:
        return list_tasks(await self._view(), filters, self._node_id)

    async def get_task(self, ref: str) -> Task:
        return find_task(await self._view(), ref)


def with_reachability(node: Node, members: ops.Members) -> Node:
    """The node with what the leader knows of it as a manager. Pure."""
    status = node.manager_status
    if status is None:
        return node
    member = members.get(str(status.raft_id))
    if member is None:
        reachability = "unknown"
    else:
        reachability = "reachable" if member.reachable else "unreachable"
    leader = member is not None and member.leader
    return msgspec.structs.replace(
        node, manager_status=msgspec.structs.replace(status, leader=leader, reachability=reachability)
    )
