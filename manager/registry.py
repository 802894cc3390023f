"""The store as the CA sees it: what it may issue a certificate for, and where it writes down that it did."""

from __future__ import annotations

import msgspec

from api import errors
from api.types.objects import Cluster, Node
from manager import operations as ops
from manager.forward import LeaderLink
from manager.roles import role_now
from manager.store.store import Store


class Registry:
    """Satisfies `ca.server.NodeRegistry`."""

    def __init__(self, store: Store, link: LeaderLink) -> None:
        self._store = store
        self._link = link

    def cluster(self) -> Cluster:
        cluster = self._store.view().cluster()
        if cluster is None:
            raise errors.Unavailable("this manager does not know the swarm yet")
        return cluster

    def node(self, node_id: str) -> Node | None:
        """With the role that a certificate may be issued for now as the wished one."""
        node = self._store.view().get(Node, node_id)
        if node is None:
            return None
        return msgspec.structs.replace(node, spec=msgspec.structs.replace(node.spec, role=role_now(node)))

    async def catch_up(self) -> None:
        await self._link.read_barrier()

    async def register(self, node_id: str, role: str, certificate_pem: bytes) -> None:
        await self._link.execute(ops.RegisterNode(node_id=node_id, role=role, certificate_pem=certificate_pem))
