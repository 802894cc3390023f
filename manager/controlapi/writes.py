"""The operations on services, nodes and the swarm, each as one store transaction. Run on the leader.

Each `_x` function is given the batch and the operation: it checks against the state, puts, and returns the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec

from api.errors import Conflict, InvalidArgument, NotSupported, OutOfSequence
from api.types.objects import Cluster, JoinTokens, Node, NodeState, Service, SwarmNetwork
from api.types.swarm import ServiceSpec
from base.ids import swarm_id
from ca.tokens import parse_token
from manager import operations as ops
from manager.controlapi import networks, validate
from manager.controlapi.defaults import filled
from manager.controlapi.lookup import find_node, find_service
from manager.controlapi.names import random_name
from manager.store.store import Batch, Store
from manager.store.transitions import Component
from manager.store.view import View

T = TypeVar("T")


class RaftMembers(Protocol):
    """What a change of nodes needs to know of, and do to, the Raft membership."""

    def safe_to_remove(self, raft_id: int) -> bool:
        """Whether a quorum of reachable members stays without this one."""
        ...

    async def remove(self, raft_id: int) -> None: ...


class Writes:
    """Runs the control API's operations."""

    def __init__(self, store: Store, members: RaftMembers, new_token: Callable[[bytes], str]) -> None:
        self._store = store
        self._members = members
        self._new_token = new_token

    def handlers(self) -> ops.Handlers:
        return {
            ops.CreateService: self.create_service,
            ops.UpdateService: self.update_service,
            ops.RemoveService: self.remove_service,
            ops.CreateNetwork: self.create_network,
            ops.RemoveNetwork: self.remove_network,
            ops.UpdateNode: self.update_node,
            ops.RemoveNode: self.remove_node,
            ops.UpdateCluster: self.update_cluster,
        }

    async def _update(self, change: Callable[[Batch], T]) -> T:
        return await self._store.update(Component.CONTROL_API, change)

    # --- services -----------------------------------------------------------------------------------------------

    async def create_service(self, operation: ops.CreateService) -> str:
        given = operation.spec
        spec = validate.service_spec(given if given.name else msgspec.structs.replace(given, name=random_name()))

        def change(batch: Batch) -> str:
            if batch.view.service_named(spec.name) is not None:
                raise Conflict(f"name conflicts with an existing object: service {spec.name} already exists")
            found = networks.with_networks(batch.view, spec)
            _check_ports(batch.view, found, "")
            service = Service(id=swarm_id(), spec=found, registry_auth=operation.auth)
            batch.put(service)
            return service.id

        return await self._update(change)

    async def update_service(self, operation: ops.UpdateService) -> None:
        def change(batch: Batch) -> None:
            service = find_service(batch.view, operation.ref)
            given = operation.spec
            spec = validate.service_spec(
                given if given.name else msgspec.structs.replace(given, name=service.spec.name)
            )
            _check_version(service.meta.version, operation.version)
            if spec.name != service.spec.name:
                raise NotSupported("renaming services is not supported")
            if (spec.mode.global_ is None) != (service.spec.mode.global_ is None):
                raise NotSupported("service mode change is not allowed")
            spec = networks.with_networks(batch.view, spec)
            _check_ports(batch.view, spec, service.id)
            batch.put(
                msgspec.structs.replace(
                    service,
                    spec=spec,
                    previous_spec=service.spec,
                    update_status=None,
                    registry_auth=operation.auth or service.registry_auth,
                )
            )

        await self._update(change)

    async def remove_service(self, operation: ops.RemoveService) -> None:
        await self._update(lambda batch: batch.delete(find_service(batch.view, operation.ref)))

    # --- networks -----------------------------------------------------------------------------------------------

    async def create_network(self, operation: ops.CreateNetwork) -> str:
        spec = networks.network_spec(operation.spec)

        def change(batch: Batch) -> str:
            networks.check_new(batch.view, spec)
            network = SwarmNetwork(id=swarm_id(), spec=spec)
            batch.put(network)
            return network.id

        return await self._update(change)

    async def remove_network(self, operation: ops.RemoveNetwork) -> None:
        def change(batch: Batch) -> None:
            network = networks.find_network(batch.view, operation.ref)
            networks.check_unused(batch.view, network)
            batch.delete(network)

        await self._update(change)

    # --- nodes --------------------------------------------------------------------------------------------------

    async def update_node(self, operation: ops.UpdateNode) -> None:
        validate.node_spec(operation.spec)

        def change(batch: Batch) -> None:
            node = find_node(batch.view, operation.ref)
            _check_version(node.meta.version, operation.version)
            if node.spec.role == "manager" and operation.spec.role == "worker":
                self._check_demotion(batch.view, node)
            batch.put(msgspec.structs.replace(node, spec=operation.spec))

        await self._update(change)

    async def remove_node(self, operation: ops.RemoveNode) -> None:
        raft_id = self._removable(find_node(self._store.view(), operation.ref), force=operation.force)
        if raft_id:
            await self._members.remove(raft_id)

        def change(batch: Batch) -> None:
            node = find_node(batch.view, operation.ref)
            cluster = batch.view.cluster()
            if cluster is not None:
                batch.put(msgspec.structs.replace(cluster, removed_nodes=[*cluster.removed_nodes, node.id]))
            batch.delete(node)

        await self._update(change)

    def _removable(self, node: Node, *, force: bool) -> int:
        """The Raft id to remove first, 0 for none. Raises when the node may not be removed (now)."""
        if node.manager_status is not None:
            raft_id = node.manager_status.raft_id
            if not force:
                raise InvalidArgument(
                    f"node {node.id} is a cluster manager and is a member of the raft cluster. It must be demoted to "
                    "worker before removal"
                )
            if not self._members.safe_to_remove(raft_id):
                raise InvalidArgument("can't remove member from the raft: this would result in a loss of quorum")
            return raft_id
        if not force and node.status.state is NodeState.READY:
            raise InvalidArgument(f"node {node.id} is not down and can't be removed")
        return 0

    def _check_demotion(self, view: View, node: Node) -> None:
        managers = [
            other for other in view.all(Node) if other.spec.role == "manager" and other.manager_status is not None
        ]
        if node.manager_status is not None and len(managers) <= 1:
            raise InvalidArgument("attempting to demote the last manager of the swarm")
        if node.manager_status is not None and not self._members.safe_to_remove(node.manager_status.raft_id):
            raise InvalidArgument("can't remove member from the raft: this would result in a loss of quorum")

    # --- the swarm ----------------------------------------------------------------------------------------------

    async def update_cluster(self, operation: ops.UpdateCluster) -> None:
        def change(batch: Batch) -> None:
            cluster = _cluster(batch.view)
            spec = filled(operation.spec)
            validate.swarm_spec(spec)
            _check_version(cluster.meta.version, operation.version)
            batch.put(msgspec.structs.replace(cluster, spec=spec, join_tokens=self._tokens(cluster, operation)))

        await self._update(change)

    def _tokens(self, cluster: Cluster, operation: ops.UpdateCluster) -> JoinTokens:
        root = cluster.root_ca.certificate_pem
        tokens = cluster.join_tokens
        worker = _given("Worker", operation.worker_token, tokens.worker)
        manager = _given("Manager", operation.manager_token, tokens.manager)
        if worker == manager:
            raise InvalidArgument("JoinTokens: the worker's and the manager's token must differ")
        return JoinTokens(
            worker=str(self._new_token(root)) if operation.rotate_worker_token else worker,
            manager=str(self._new_token(root)) if operation.rotate_manager_token else manager,
        )


def _given(role: str, given: str, present: str) -> str:
    """A token that the user brings must name this swarm's root, as the present one does, and is never repeated."""
    if not given or given == present:
        return present
    try:
        token = parse_token(given)
    except InvalidArgument:
        raise InvalidArgument(f"JoinTokens.{role}: not a join token") from None
    if token.digest != parse_token(present).digest:
        raise InvalidArgument(f"JoinTokens.{role}: the token is of another swarm")
    return given


def _cluster(view: View) -> Cluster:
    cluster = view.cluster()
    assert cluster is not None, "the first manager writes the cluster before it serves"
    return cluster


def _check_version(current: int, named: int) -> None:
    if current != named:
        raise OutOfSequence("update out of sequence")


def _check_ports(view: View, spec: ServiceSpec, service_id: str) -> None:
    """Raises InvalidArgument when another service holds a published port that this one asks for."""
    wanted = {
        (port.protocol, port.published_port)
        for port in (spec.endpoint_spec.ports if spec.endpoint_spec is not None else [])
        if port.published_port
    }
    if not wanted:
        return
    for other in view.all(Service):
        asked = other.spec.endpoint_spec.ports if other.spec.endpoint_spec is not None else []
        held = other.endpoint.ports if other.endpoint is not None else []
        for port in [*asked, *held]:
            if other.id != service_id and (port.protocol, port.published_port) in wanted:
                raise InvalidArgument(
                    f"port '{port.published_port}' is already in use by service '{other.spec.name}' ({other.id}) "
                    "as an ingress port"
                )
