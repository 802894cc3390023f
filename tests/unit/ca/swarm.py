"""A real CA behind a real gRPC port with mutual TLS on loopback, its store a dict: what the CA's tests talk to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import msgspec

from api.rpc.client import SERVER_OPTIONS
from api.rpc.methods import Method
from api.rpc.server import Handler, service
from api.types.objects import Certificate, Cluster, Node
from api.types.swarm import NodeSpec
from base.clock import SystemClock
from base.ids import swarm_id
from ca import certificates as certs
from ca.authorities import Authorities
from ca.identity import Identity
from ca.server import CaServer
from ca.tls import ServerTls
from ca.tokens import new_tokens

CLOCK = SystemClock()


def new_cluster() -> Cluster:
    root = certs.create_root(CLOCK.now_ns())
    return Cluster(id=swarm_id(), root_ca=root, join_tokens=new_tokens(root.certificate_pem))


def new_identity(cluster: Cluster, role: str = "manager", node_id: str = "") -> Identity:
    key = certs.new_key()
    pem = certs.issue(
        cluster.root_ca,
        key.public_key(),
        node_id=node_id or swarm_id(),
        role=role,
        cluster_id=cluster.id,
        now_ns=CLOCK.now_ns(),
    )
    return Identity.from_pem(pem, certs.key_pem(key), cluster.root_ca.certificate_pem)


class Manager:
    """A manager with nothing but a CA, and whatever other handlers a test brings."""

    def __init__(self) -> None:
        self._cluster = new_cluster()
        self.nodes: dict[str, Node] = {}
        self.late: list[Node] = []
        self.identity = new_identity(self._cluster)
        self.tls = ServerTls(self.identity, Authorities.of(self._cluster, CLOCK.now_ns()), CLOCK)
        self.addr = ""

    # NodeRegistry
    def cluster(self) -> Cluster:
        return self._cluster

    def node(self, node_id: str) -> Node | None:
        return self.nodes.get(node_id)

    async def catch_up(self) -> None:
        """What this one knows is all there is, but for `late`, which it hears of now."""
        self.nodes |= {node.id: node for node in self.late}
        self.late.clear()

    async def register(self, node_id: str, role: str, certificate_pem: bytes) -> None:
        certificate = Certificate(role=role, certificate_pem=certificate_pem, state="issued")
        known = self.nodes.get(node_id) or Node(id=node_id, spec=NodeSpec(role=role))
        self.nodes[node_id] = msgspec.structs.replace(known, role=role, certificate=certificate)

    def change(self, **fields: Any) -> None:
        """Change the cluster object, as the store's watch would report it."""
        self._cluster = msgspec.structs.replace(self._cluster, **fields)
        self.tls.update(authorities=Authorities.of(self._cluster, CLOCK.now_ns()))

    @asynccontextmanager
    async def serving(
        self, more: dict[Method[Any, Any], tuple[frozenset[str], Handler]] | None = None, port: int = 0
    ) -> AsyncIterator[str]:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        handlers = {**CaServer(self, CLOCK).handlers(), **(more or {})}
        server.add_generic_rpc_handlers([service(handlers, verify=self.tls.verify)])
        self.addr = f"127.0.0.1:{server.add_secure_port(f'127.0.0.1:{port}', self.tls.credentials)}"
        await server.start()
        try:
            yield self.addr
        finally:
            await server.stop(None)
            await _calls_ended()


async def _calls_ended() -> None:
    """gRPC's tasks of aborted calls outlive `stop` by a moment."""
    async with asyncio.timeout(5):
        while any(task.get_name().startswith(("HandleExceptions[", "rpc_task")) for task in asyncio.all_tasks()):
            await asyncio.sleep(0.001)
