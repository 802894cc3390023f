"""One manager, composed: the store on its log, the RPC server on the swarm port, and the loops while it leads.

Life: `Manager(...)`, then `run(ready)` until cancelled; `control` is the API for the HTTP server. Everything that a
caller may rely on is in Raft: a manager that is killed at any point comes back with what it had agreed to.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from api import errors
from api.rpc.client import SERVER_OPTIONS, call
from api.rpc.methods import Method
from api.rpc.server import Handler, Peer, service
from api.rpc.swarm_methods import CONTROL_CALL, MANAGERS, RAFT_JOIN, RAFT_LEAVE
from api.types.dispatch import RaftJoinRequest, RaftJoinResponse, RaftLeaveRequest, RaftLeaveResponse
from api.types.objects import Cluster, Node
from base.clock import Clock
from ca.authorities import Authorities
from ca.identity import Identity
from ca.server import CaServer
from ca.tls import ServerTls, channel
from ca.tokens import new_token
from manager import operations as ops
from manager.allocator.loop import Allocator
from manager.controlapi.control import Control
from manager.controlapi.writes import Writes
from manager.dispatcher.service import Dispatcher, host_of
from manager.forward import LeaderLink
from manager.founding import Founding, own_identity
from manager.leadership import Leadership, Loops
from manager.membership import Membership, new_raft_id
from manager.orchestrator.loop import Orchestrator
from manager.orchestrator.reaper import Reaper
from manager.orchestrator.rebalancer import Preview, Rebalancer, preview
from manager.raftkeys import RaftKeys
from manager.registry import Registry
from manager.roles import role_now
from manager.rootkeeper import RootKeeper
from manager.scheduler.loop import Scheduler
from manager.settings import raft_settings
from manager.store.store import Batch, Store
from manager.store.transitions import Component
from raft.errors import NotLeader
from raft.node import RaftConfig, RaftNode
from raft.storage.sqlite import SqliteStorage
from raft.transport.grpc import GrpcTransport

log = logging.getLogger(__name__)

LOG_FILE = "raft.db"
CERTIFICATES = "certificates"
JOIN_TIMEOUT_S, JOIN_PAUSE_S = 30.0, 0.5
STOP_GRACE_S = 0.5
REMOVED_POLL_S = 0.5
ADDRESS_POLL_S = 1.0


def raft_keys(state_dir: Path, clock: Clock) -> RaftKeys:
    """The keys of the log in a node's state directory. Blocks; raises as `RaftKeys`."""
    return RaftKeys(state_dir / CERTIFICATES, clock, log_exists=(state_dir / LOG_FILE).exists())


@dataclass(frozen=True)
class ManagerConfig:
    """Where a manager keeps its log and how it is reached. Addresses are `host:port`."""

    state_dir: Path
    listen_addr: str
    advertise_addr: str
    raft: RaftConfig = field(default_factory=RaftConfig)


class Manager:
    """One for as long as this node is a manager."""

    def __init__(
        self,
        config: ManagerConfig,
        identity: Identity,
        clock: Clock,
        *,
        founding: Founding | None = None,
        join_addrs: tuple[str, ...] = (),
    ) -> None:
        """
        Args:
            founding: the swarm to found when there is no log yet.
            join_addrs: managers to ask for membership when there is no log yet and nothing to found.
        """
        self._config = config
        self._identity = identity
        self._clock = clock
        self._founding = founding
        self._join_addrs = join_addrs
        self._tls = ServerTls(identity, Authorities.root_only(identity.cluster_id, identity.root_pem), clock)
        self._transport = GrpcTransport(
            channel_factory=self._channel, own_addr=config.advertise_addr, allow=self._speaks_for
        )
        self.store = Store(clock)
        self._keys: RaftKeys | None = None
        self._parts: _Parts | None = None

    @property
    def control(self) -> Control:
        """The control API. Raises Unavailable until `run` has come so far."""
        return self._running().control

    @property
    def raft(self) -> RaftNode:
        """Raises Unavailable until `run` has come so far."""
        return self._running().raft

    def counts(self) -> tuple[int, int]:
        """(nodes, managers) as known here, for `docker info`; no barrier."""
        nodes = self.store.view().all(Node)
        return len(nodes), sum(node.manager_status is not None for node in nodes)

    def managers(self) -> list[tuple[str, str]]:
        """(node id, address) of the managers as known here."""
        return [
            (node.id, node.manager_status.addr)
            for node in self.store.view().all(Node)
            if node.manager_status is not None
        ]

    def rebalance_preview(self) -> tuple[list[Preview], dict[str, str]]:
        """The moves that would even out the services, and host names by node id; as known here, no barrier."""
        view = self.store.view()
        names = {node.id: node.description.hostname if node.description else "" for node in view.all(Node)}
        return preview(view, self._clock.now_ns()), names

    def set_identity(self, identity: Identity) -> None:
        """The node's certificate was renewed."""
        self._identity = identity
        self._tls.update(identity=identity)
        if self._parts is not None:
            self._parts.link.renewed()
        if self._keys is not None and self._keys.rotate_if_old():
            log.info("the raft log is sealed with a new key from now on")

    def renew_own(self) -> Identity:
        """A certificate from the root key in this manager's own log: when all managers' certificates have expired, no
        connection between them is possible, and none of them can be asked.

        Raises Unavailable while the log has no key, Forbidden when it says that this node is no manager.
        """
        cluster, node = self.store.view().cluster(), self.store.view().get(Node, self._identity.node_id)
        if cluster is None or not cluster.root_ca.key_pem:
            raise errors.Unavailable("this manager holds no signing key")
        if node is None or role_now(node) != "manager":
            raise errors.Forbidden("this node is no manager any more")
        return own_identity(cluster, node.id, self._clock.now_ns())

    async def run(self, ready: asyncio.Event) -> None:
        """Serve until cancelled. Sets `ready` when the control API answers.

        Returns when this member has been removed from Raft (demoted, or it left).
        Raises: Unavailable when the port is taken or no manager lets it join; what broke Raft or its log.
        """
        storage = await asyncio.to_thread(self._open_log)
        new = storage.raft_id() is None
        server = grpc.aio.server(options=SERVER_OPTIONS)
        gate = _Gate()
        server.add_generic_rpc_handlers((gate,))
        try:
            await self._listen(server)
            raft_id = storage.raft_id() or (new_raft_id() if self._founding is not None else await self._ask_to_join())
            parts = self._parts = self._compose(raft_id, storage)
            handlers = self._handlers(parts)
            ours = {method: entry for method, entry in handlers.items() if entry[0] == MANAGERS}
            gate.open(service(ours, verify=self._verify_manager))
            rest = {method: entry for method, entry in handlers.items() if method not in ours}
            gate.open(service(rest, verify=self._tls.verify))
            await self._serve(parts, ready, new)
        finally:
            await server.stop(STOP_GRACE_S)
            if self._parts is not None:
                await self._parts.link.close()
            else:
                storage.close()
            self._parts = None

    def _open_log(self) -> SqliteStorage:
        path = self._config.state_dir / LOG_FILE
        self._keys = raft_keys(self._config.state_dir, self._clock)
        return SqliteStorage(path, self._keys.ring)

    async def resign(self) -> None:
        """Before a planned stop: hand leadership over, if there is anyone to take it."""
        if self._parts is not None and self._parts.raft.status().is_leader:
            try:
                await self._parts.raft.transfer_leadership()
            except errors.ShoalError as error:
                log.info("leadership was not handed over reason=%s", error)

    async def leave(self) -> None:
        """Take this manager out of Raft, so that the others don't wait for it. Raises Conflict, Unavailable."""
        await self._running().link.execute(ops.LeaveMember(node_id=self._identity.node_id))

    async def _listen(self, server: grpc.aio.Server) -> None:
        addr = self._config.listen_addr
        try:
            bound = server.add_secure_port(addr, self._tls.credentials)
        except RuntimeError:
            bound = 0
        if not bound:
            raise errors.Unavailable(f"can't listen on {addr}: is the port in use?")
        await server.start()

    # --- composition --------------------------------------------------------------------------------------------

    def _compose(self, raft_id: int, storage: SqliteStorage) -> _Parts:
        raft = RaftNode(
            raft_id=raft_id,
            storage=storage,
            transport=self._transport,
            machine=self.store,
            rng=random.Random(secrets.randbits(128)),
            config=self._config.raft,
            found_at=self._config.advertise_addr if self._founding is not None else "",
        )
        self.store.bind(raft)
        membership = Membership(self.store, raft)
        writes = Writes(self.store, membership, new_token)
        link = LeaderLink(raft, self._channel, self._heard_of_move)
        link.bind({**writes.handlers(), **membership.handlers(), **RootKeeper(self.store).handlers()})
        dispatcher = Dispatcher(self.store, lambda: _not_leader(raft))
        control = Control(self.store, link, self._identity.node_id)
        registry = Registry(self.store, link)
        return _Parts(raft, link, membership, dispatcher, control, CaServer(registry, self._clock))

    def _handlers(self, parts: _Parts) -> dict[Method[Any, Any], tuple[frozenset[str], Handler]]:
        return {
            **self._transport.handlers(),
            **parts.dispatcher.handlers(),
            **parts.ca.handlers(),
            RAFT_JOIN: (MANAGERS, self._join),
            RAFT_LEAVE: (MANAGERS, self._leave),
            CONTROL_CALL: (MANAGERS, parts.link.serve),
        }

    def _loops(self, parts: _Parts) -> Loops:
        return {
            "allocator": Allocator(self.store).run,
            "scheduler": Scheduler(self.store).run,
            "orchestrator": Orchestrator(self.store).run,
            "rebalancer": Rebalancer(self.store).run,
            "reaper": Reaper(self.store).run,
            "dispatcher": parts.dispatcher.run,
            "membership": parts.membership.run,
            "root": RootKeeper(self.store).run,
        }

    async def _serve(self, parts: _Parts, ready: asyncio.Event, new: bool) -> None:
        leadership = Leadership(parts.raft, lambda: self._prepare(parts.raft), lambda: self._loops(parts))
        started = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(parts.raft.run(started), name="manager/raft")
                await started.wait()
                if self._keys is not None:
                    await asyncio.to_thread(self._keys.prune)
                group.create_task(leadership.run(), name="manager/leadership")
                group.create_task(self._follow_cluster(parts.raft), name="manager/cluster")
                group.create_task(self._tell_address(parts), name="manager/address")
                group.create_task(self._say_when_ready(ready, new), name="manager/ready")
                group.create_task(
                    _until_removed(parts.raft, self.store, self._identity.node_id), name="manager/removal"
                )
        except BaseExceptionGroup as group_error:
            if all(isinstance(error, _Removed) for error in group_error.exceptions):
                log.info("this manager was removed from the swarm's managers")
                return
            raise next(error for error in group_error.exceptions if not isinstance(error, _Removed)) from group_error

    async def _prepare(self, raft: RaftNode) -> None:
        """A new leader's first act: of a new swarm, write the first objects."""
        if self._founding is None or self.store.view().cluster() is not None:
            return
        cluster, node = self._founding.cluster, self._founding.node
        assert node.manager_status is not None
        status = msgspec.structs.replace(node.manager_status, raft_id=raft.raft_id)

        def change(batch: Batch) -> None:
            batch.put(cluster)
            batch.put(msgspec.structs.replace(node, manager_status=status))

        await self.store.update(Component.MANAGER, change)

    async def _say_when_ready(self, ready: asyncio.Event, new: bool) -> None:
        """At once after a restart (the majority may be away); a new member has to know the swarm first."""
        async with self.store.watch(("clusters",)) as watch:
            while new and self.store.view().cluster() is None:
                await watch.next()
        ready.set()

    async def _follow_cluster(self, raft: RaftNode) -> None:
        """Do as the cluster object says: trust its root, the join authorities of its tokens and no removed node; take
        its Raft settings."""
        async with self.store.watch(("clusters",)) as watch:
            known: Cluster | None = None
            while True:
                cluster = self.store.view().cluster()
                if cluster is not None and cluster != known:
                    self._tls.update(authorities=Authorities.of(cluster, self._clock.now_ns()))
                    raft.configure(raft_settings(cluster.spec.raft, self._config.raft))
                    known = cluster
                await watch.next()

    async def _tell_address(self, parts: _Parts) -> None:
        """Whenever the log has another address for this member: tell the leader ours.

        Nobody reaches a member that moved: it may know neither the leader nor how far the log is committed. So it
        asks all members that Raft knows of, and compares with Raft's membership as well as with the store.
        """
        addr, node_id = self._config.advertise_addr, self._identity.node_id
        operation = ops.MoveMember(node_id=node_id, addr=addr)
        async with self.store.watch(("nodes",)) as watch:
            while True:
                members = parts.raft.status().members
                own = members.pop(parts.raft.raft_id, None)
                node = self.store.view().get(Node, node_id)
                status = node.manager_status if node is not None else None
                stale = status is not None and status.raft_id == parts.raft.raft_id and status.addr != addr
                if stale or (own is not None and own.addr != addr):
                    others = [member.addr for member in members.values()]
                    await parts.link.execute_anywhere(operation, [*others, *self._join_addrs])
                await watch.next(ADDRESS_POLL_S)

    def _heard_of_move(self, operation: ops.MoveMember) -> None:
        """There may be no leader because nobody reaches that member, and it may not know yet that its vote is needed:
        answer it where it is from now on."""
        node = self.store.view().get(Node, operation.node_id)
        if node is not None and node.manager_status is not None and node.manager_status.raft_id:
            self._transport.learn(node.manager_status.raft_id, operation.addr)

    # --- joining and leaving ------------------------------------------------------------------------------------

    async def _ask_to_join(self) -> int:
        """Ask the known managers for membership; the answer is this member's Raft id.

        Whoever can't be reached, or has no leader, is asked again for a while: an id that was given to us and that we
        did not hear of is taken back when we ask again.
        """
        deadline = asyncio.get_running_loop().time() + JOIN_TIMEOUT_S
        last: errors.ShoalError = errors.Unavailable("no manager's address is known to join through")
        while self._join_addrs:
            for addr in self._join_addrs:
                connection = self._channel(addr)
                try:
                    request = RaftJoinRequest(addr=self._config.advertise_addr)
                    return (await call(connection, RAFT_JOIN, request, timeout=JOIN_TIMEOUT_S)).raft_id
                except errors.ShoalError as error:
                    last = error
                finally:
                    await connection.close()
            if not isinstance(last, errors.Unavailable) or asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(JOIN_PAUSE_S)
        raise last

    async def _join(self, request: RaftJoinRequest, peer: Peer) -> RaftJoinResponse:
        host, _, port = request.addr.rpartition(":")
        if not port.isdecimal():
            raise errors.InvalidArgument(f"{request.addr!r} is not host:port")
        addr = request.addr if host not in ("", "0.0.0.0", "[::]") else f"{host_of(peer.address)}:{port}"
        answer: RaftJoinResponse = await self._running().link.execute(ops.JoinMember(node_id=peer.node_id, addr=addr))
        return answer

    async def _leave(self, request: RaftLeaveRequest, peer: Peer) -> RaftLeaveResponse:
        if request.node_id != peer.node_id:
            raise errors.Forbidden("a manager may take out only itself")
        await self._running().link.execute(ops.LeaveMember(node_id=peer.node_id))
        return RaftLeaveResponse()

    def _verify_manager(self, certificate: x509.Certificate, chain_pem: bytes) -> None:
        """What only managers may call is closed to one that was demoted, though its old certificate is still valid.

        It has to have been given a newer one: a manager that lags behind may not have heard of a promotion yet, and
        must listen to that node all the same, which may be its leader.
        """
        self._tls.verify(certificate, chain_pem)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        node = self.store.view().get(Node, str(names[0].value)) if names else None
        if node is None or role_now(node) == "manager" or not node.certificate.certificate_pem:
            return
        newest = x509.load_pem_x509_certificate(node.certificate.certificate_pem)
        if newest.not_valid_before_utc > certificate.not_valid_before_utc:
            raise errors.Forbidden(f"node {node.id} is no manager any more")

    # --- small things -------------------------------------------------------------------------------------------

    def _channel(self, addr: str) -> grpc.aio.Channel:
        return channel(addr, self._identity, self._identity.root_pem)

    def _speaks_for(self, peer: Peer, raft_id: int) -> bool:
        """A Raft id that the store knows belongs to its node alone."""
        for node in self.store.view().all(Node):
            if node.manager_status is not None and node.manager_status.raft_id == raft_id:
                return node.id == peer.node_id
        return True

    def _running(self) -> _Parts:
        if self._parts is None:
            raise errors.Unavailable("this manager is starting or stopping")
        return self._parts


@dataclass(frozen=True)
class _Parts:
    """What exists only while the manager runs."""

    raft: RaftNode
    link: LeaderLink
    membership: Membership
    dispatcher: Dispatcher
    control: Control
    ca: CaServer


class _Gate(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The server must be up before a joiner knows its Raft id; until the services exist, calls find none."""

    def __init__(self) -> None:
        self._inner: list[grpc.GenericRpcHandler] = []

    def open(self, inner: grpc.GenericRpcHandler) -> None:
        self._inner.append(inner)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return next((found for inner in self._inner if (found := inner.service(details)) is not None), None)


class _Removed(Exception):
    """This member is out of Raft."""


async def _until_removed(raft: RaftNode, store: Store, node_id: str) -> None:
    """Ends when Raft says so, or when the log takes back what it once said: that this Raft id is this node's.

    Raft alone is not enough: a member that is removed while it is cut off, or slow, never hears of it from Raft.
    """
    confirmed = False
    while not raft.status().removed:
        node = store.view().get(Node, node_id)
        named = node is not None and node.manager_status is not None and node.manager_status.raft_id == raft.raft_id
        if confirmed and not named:
            break
        confirmed = confirmed or named
        await asyncio.sleep(REMOVED_POLL_S)
    raise _Removed


def _not_leader(raft: RaftNode) -> errors.Unavailable:
    status = raft.status()
    return NotLeader(status.leader_id, status.leader_addr)
