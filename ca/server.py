"""The CA's RPC service: the root certificate for everyone, certificates for joiners and for nodes that renew.

Of a request only the public key counts. A joiner gets a new node id and the role of its join authority; a node gets
its own id and the role that the store wants it to have. What is issued is registered (durably) before it is answered.
Where the swarm has an external CA, that one signs, and what it signed is checked; the manager's own key still makes the
certificates for renewal, which only managers read.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from api.errors import Forbidden, Unavailable
from api.rpc.methods import Method
from api.rpc.server import Handler, Peer
from api.rpc.swarm_methods import ANYONE, CA_GET_ROOT, CA_ISSUE
from api.types.dispatch import GetRootCARequest, GetRootCAResponse, IssueCertificateRequest, IssueCertificateResponse
from api.types.objects import Cluster, Node
from base.clock import Clock
from base.ids import swarm_id
from ca import external, rotation
from ca.certificates import JOIN_PREFIX, issue, issue_renewal, requested_key

log = logging.getLogger(__name__)


class NodeRegistry(Protocol):
    """The manager's store, as far as the CA needs it."""

    def cluster(self) -> Cluster:
        """The cluster object. Raises Unavailable while it is not known."""
        ...

    def node(self, node_id: str) -> Node | None: ...

    async def catch_up(self) -> None:
        """Afterwards it knows all that was acknowledged before. Raises Unavailable when there is no leader."""
        ...

    async def register(self, node_id: str, role: str, certificate_pem: bytes) -> None:
        """Write that the node exists and has this certificate; durable on return. A follower passes it to the
        leader."""
        ...


class CaServer:
    """Answers for one manager."""

    def __init__(self, registry: NodeRegistry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock

    def handlers(self) -> dict[Method[Any, Any], tuple[frozenset[str], Handler]]:
        """For `api.rpc.server.service`."""
        return {CA_GET_ROOT: (ANYONE, self._get_root), CA_ISSUE: (ANYONE, self._issue)}

    async def _get_root(self, message: GetRootCARequest, peer: Peer) -> GetRootCAResponse:
        return GetRootCAResponse(root_ca_pem=rotation.trusted(self._registry.cluster()))

    async def _issue(self, message: IssueCertificateRequest, peer: Peer) -> IssueCertificateResponse:
        public_key = requested_key(message.csr_pem)
        cluster = self._registry.cluster()
        if not cluster.root_ca.key_pem:
            raise Unavailable("this manager holds no signing key")
        node_id, role = await self._decide(peer)
        if cluster.spec.ca_config.external_cas:
            certificate = await external.sign(
                cluster.spec.ca_config.external_cas,
                message.csr_pem,
                node_id=node_id,
                role=role,
                cluster_id=cluster.id,
                root_pem=cluster.root_ca.certificate_pem,
            )
        else:
            certificate = issue(
                rotation.signer(cluster),
                public_key,
                node_id=node_id,
                role=role,
                cluster_id=cluster.id,
                now_ns=self._clock.now_ns(),
                life_ns=cluster.spec.ca_config.node_cert_expiry,
            )
        await self._registry.register(node_id, role, certificate)
        log.info("certificate issued node_id=%s role=%s asker=%s address=%s", node_id, role, peer.role, peer.address)
        return IssueCertificateResponse(
            node_id=node_id,
            role=role,
            certificate_pem=certificate,
            root_ca_pem=rotation.trusted(cluster),
            intermediates_pem=rotation.intermediates(cluster),
            cluster_id=cluster.id,
            renewal_pem=issue_renewal(
                rotation.signer(cluster),
                public_key,
                node_id=node_id,
                cluster_id=cluster.id,
                now_ns=self._clock.now_ns(),
            ),
        )

    async def _decide(self, peer: Peer) -> tuple[str, str]:
        """Node id and role of what is issued; `peer` was verified against the authority of its role."""
        if peer.role.startswith(JOIN_PREFIX):
            return swarm_id(), peer.role.removeprefix(JOIN_PREFIX)
        node = self._registry.node(peer.node_id)
        if node is None:  # it may have joined through another manager just now
            await self._registry.catch_up()
            node = self._registry.node(peer.node_id)
        if node is None:
            raise Forbidden(f"node {peer.node_id} is not part of the swarm")
        return node.id, node.spec.role or node.role
