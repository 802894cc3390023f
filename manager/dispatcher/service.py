"""The dispatcher's shell: the RPC handlers that agents call, and the loop that marks silent nodes down.

It serves on the leader only: elsewhere every call fails Unavailable and names the leader, so that agents move on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import msgspec

from api import errors
from api.rpc.methods import Method
from api.rpc.server import Handler, Peer
from api.rpc.swarm_methods import (
    DISPATCHER_ASSIGNMENTS,
    DISPATCHER_HEARTBEAT,
    DISPATCHER_SESSION,
    DISPATCHER_UPDATE_STATUS,
    NODES,
)
from api.types.dispatch import (
    AssignmentsMessage,
    AssignmentsRequest,
    HeartbeatRequest,
    HeartbeatResponse,
    ManagerPeer,
    SessionMessage,
    SessionRequest,
    UpdateTaskStatusRequest,
    UpdateTaskStatusResponse,
)
from api.types.objects import Node, NodeDescription, NodeState, NodeStatus
from base.clock import NS
from ca.rotation import trusted
from manager.dispatcher.draining import POLL_S, Draining
from manager.dispatcher.liveness import DEFAULT_PERIOD_NS, Liveness
from manager.dispatcher.networks import NetworkTruth
from manager.dispatcher.orders import Orders
from manager.dispatcher.parts import parts
from manager.dispatcher.sessions import Session, Sessions
from manager.dispatcher.signals import Signals
from manager.dispatcher.statuses import StatusWriter
from manager.roles import role_now
from manager.store.memory import Change
from manager.store.store import Batch, Store
from manager.store.transitions import Component
from manager.store.view import View
from manager.store.watch import Batch as Changes
from manager.store.watch import Watch

log = logging.getLogger(__name__)

CHECK_S = 0.5
"""How often heartbeats are judged."""


NETWORK_TABLES = frozenset({"tasks", "services", "networks", "nodes"})
"""What a node's networks are derived from."""
SWARM_TABLES = frozenset({"nodes", "clusters"})
"""What all nodes are told of the swarm."""


class Dispatcher:
    """One object for the manager's life; `run` for each time as leader."""

    def __init__(self, store: Store, not_leader: Callable[[], errors.Unavailable]) -> None:
        self._store = store
        self._not_leader = not_leader
        self._sessions = Sessions()
        self._liveness = Liveness()
        self._statuses = StatusWriter(store)
        self._draining = Draining(store.clock.monotonic())
        self._truth = NetworkTruth()
        self._changes: Watch | None = None
        self._streams = Signals()
        self._told = Signals()
        self._facts = SessionMessage(session_id="")
        """What every node is told, whoever it is."""
        self._serving = False

    def handlers(self) -> dict[Method[Any, Any], tuple[frozenset[str], Handler]]:
        """For `api.rpc.server.service`."""
        return {
            DISPATCHER_SESSION: (NODES, self.session),
            DISPATCHER_HEARTBEAT: (NODES, self.heartbeat),
            DISPATCHER_UPDATE_STATUS: (NODES, self.update_status),
            DISPATCHER_ASSIGNMENTS: (NODES, self.assignments),
        }

    async def run(self) -> None:
        """Serve until cancelled; then every session ends, and its node looks for the next leader."""
        self._liveness = Liveness()
        self._statuses = StatusWriter(self._store)
        self._draining = Draining(self._store.clock.monotonic())
        self._truth = NetworkTruth()
        async with self._store.watch(NETWORK_TABLES | SWARM_TABLES) as changes:
            self._changes = changes
            self._take_in(Changes((), rescan=True))
            self._serving = True
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._statuses.run(), name="statuses")
                    group.create_task(self._watch(changes), name="changes")
                    group.create_task(self._watch_heartbeats(), name="heartbeats")
                    group.create_task(self._watch_removals(), name="removals")
            finally:
                self._serving = False
                self._changes = None
                self._sessions.end_all(self._not_leader())

    # --- the calls ----------------------------------------------------------------------------------------------

    async def session(self, request: SessionRequest, peer: Peer) -> AsyncIterator[SessionMessage]:
        """Register a node and keep it informed of what it must know about the swarm."""
        self._require_leader()
        session = self._sessions.open(peer.node_id)
        try:
            await self._register(peer, request.description)
            session.check()
            log.info("session opened node=%s session=%s", session.node_id, session.id)
            last: SessionMessage | None = None
            with self._told.open(peer.node_id) as signal:
                session.attach(signal)
                while True:
                    self._refresh()
                    signal.take()
                    message = self._session_message(session)
                    if message != last:
                        yield message
                        last = message
                    session.check()
                    await signal.wait()
                    session.check()
        finally:
            log.info("session ended node=%s session=%s", session.node_id, session.id)

    async def heartbeat(self, request: HeartbeatRequest, peer: Peer) -> HeartbeatResponse:
        """Answers with the time to the next heartbeat."""
        self._require_leader()
        self._sessions.require(peer.node_id, request.session_id)
        self._liveness.heard(peer.node_id, self._store.clock.monotonic(), self._period_s())
        self._draining.acknowledge(peer.node_id, request.applied_index)
        node = self._store.view().get(Node, peer.node_id)
        if node is not None and node.status.state is not NodeState.READY:
            await self._set_state(peer.node_id, NodeState.READY, "", node.status.addr)
        return HeartbeatResponse(period_ns=self._period_ns())

    async def update_status(self, request: UpdateTaskStatusRequest, peer: Peer) -> UpdateTaskStatusResponse:
        """Acknowledges when the statuses are durable."""
        self._require_leader()
        self._sessions.require(peer.node_id, request.session_id)
        await self._statuses.report(peer.node_id, request.updates)
        return UpdateTaskStatusResponse()

    async def assignments(self, request: AssignmentsRequest, peer: Peer) -> AsyncIterator[AssignmentsMessage]:
        """First everything that the node shall do, then each change."""
        self._require_leader()
        session = self._sessions.require(peer.node_id, request.session_id)
        with self._streams.open(peer.node_id) as signal:
            session.attach(signal)
            progress = self._draining.open(peer.node_id, signal)
            try:
                orders = Orders(peer.node_id, self._truth, self._draining)
                self._refresh()
                signal.take()
                view = self._store.view()
                message = orders.complete(view, self._store.clock.monotonic())
                progress.looked = progress.sent = view.index
                for part in parts(message):
                    yield part
                while True:
                    await signal.wait(POLL_S if orders.held else None)
                    session.check()
                    self._refresh()
                    if not signal.take() and not orders.held:
                        continue
                    view = self._store.view()
                    messages = orders.next(view, self._store.clock.monotonic())
                    if any(message.update_services or message.remove_services for message in messages):
                        progress.sent = view.index
                    progress.looked = view.index
                    for message in messages:
                        for part in parts(message):
                            yield part
            finally:
                session.detach(signal)
                self._draining.close(peer.node_id, progress)

    # --- nodes --------------------------------------------------------------------------------------------------

    async def _register(self, peer: Peer, description: NodeDescription) -> None:
        self._liveness.heard(peer.node_id, self._store.clock.monotonic(), self._period_s())
        addr = host_of(peer.address)

        def change(batch: Batch) -> None:
            node = batch.view.get(Node, peer.node_id)
            if node is None:
                raise errors.Forbidden(f"node {peer.node_id} is not part of the swarm")
            status = NodeStatus(state=NodeState.READY, addr=addr or node.status.addr)
            new = msgspec.structs.replace(node, description=description, status=status)
            if new != node:
                batch.put(new)

        await self._store.update(Component.DISPATCHER, change)

    async def _watch(self, changes: Watch) -> None:
        """Wake the streams that a change concerns, and keep the truth in step with the store while none looks."""
        while True:
            self._take_in(await changes.next())

    def _refresh(self) -> None:
        """Take in what is queued: a stream must never compare with a truth that is older than its view, nor count
        another as one that has nothing to hear before that one was told."""
        if self._changes is not None:
            self._take_in(self._changes.take())

    def _take_in(self, batch: Changes) -> None:
        if not batch.rescan and not batch.changes:
            return
        view, version = self._store.view(), self._truth.version
        networking = [change for change in batch.changes if change.table in NETWORK_TABLES]
        self._truth.refresh(view, None if batch.rescan else networking)
        if self._truth.version != version:
            self._streams.wake_all()
        else:
            self._streams.wake(concerned(batch.changes))
        changed = [change for change in batch.changes if change.table in SWARM_TABLES]
        if not batch.rescan and not changed:
            return
        facts = self._swarm_facts()
        if batch.rescan or facts != self._facts:
            self._facts = facts
            self._told.wake_all()
        else:
            self._told.wake(change.id for change in changed if change.table == "nodes")

    async def _watch_heartbeats(self) -> None:
        while True:
            now = self._store.clock.monotonic()
            alive = [node.id for node in self._store.view().all(Node) if node.status.state is NodeState.READY]
            for node_id in self._liveness.overdue(alive, now, self._period_s()):
                log.warning("node down node=%s reason=heartbeat", node_id)
                await self._set_state(node_id, NodeState.DOWN, "heartbeat failure", "")
                self._liveness.forget(node_id)
                self._sessions.end(node_id, errors.NotFound("invalid session: heartbeats were missed"))
            await asyncio.sleep(CHECK_S)

    async def _watch_removals(self) -> None:
        async with self._store.watch(("nodes",)) as watch:
            while True:
                for change in (await watch.next()).changes:
                    if change.new is None:
                        self._liveness.forget(change.id)
                        self._sessions.end(change.id, errors.Forbidden(f"node {change.id} was removed from the swarm"))

    async def _set_state(self, node_id: str, state: NodeState, message: str, addr: str) -> None:
        def change(batch: Batch) -> None:
            node = batch.view.get(Node, node_id)
            if node is None or node.status.state is state:
                return
            status = NodeStatus(state=state, message=message, addr=addr or node.status.addr)
            batch.put(msgspec.structs.replace(node, status=status))

        await self._store.update(Component.DISPATCHER, change)

    # --- what sessions are told ---------------------------------------------------------------------------------

    def _session_message(self, session: Session) -> SessionMessage:
        node = self._store.view().get(Node, session.node_id)
        role = role_now(node) if node is not None else "worker"
        return msgspec.structs.replace(self._facts, session_id=session.id, role=role)

    def _swarm_facts(self) -> SessionMessage:
        view = self._store.view()
        cluster = view.cluster()
        return SessionMessage(
            session_id="",
            managers=managers_of(view),
            root_ca_pem=trusted(cluster) if cluster is not None else b"",
            heartbeat_period_ns=self._period_ns(),
        )

    def _period_ns(self) -> int:
        cluster = self._store.view().cluster()
        return (cluster.spec.dispatcher.heartbeat_period if cluster is not None else 0) or DEFAULT_PERIOD_NS

    def _period_s(self) -> float:
        return self._period_ns() / NS

    def _require_leader(self) -> None:
        if not self._serving:
            raise self._not_leader()


def concerned(changes: Iterable[Change]) -> set[str]:
    """The nodes whose orders may be others now: those of a changed task before and after, and a changed node."""
    found = {change.id for change in changes if change.table == "nodes"}
    for change in changes:
        if change.table == "tasks":
            found |= {task.node_id for task in (change.old, change.new) if task is not None and task.node_id}
    return found


def managers_of(view: View) -> list[ManagerPeer]:
    """Where the managers can be reached."""
    return [
        ManagerPeer(node_id=node.id, addr=node.manager_status.addr)
        for node in view.all(Node)
        if node.manager_status is not None and node.manager_status.addr
    ]


def host_of(address: str) -> str:
    """The host of a gRPC peer address: `ipv4:10.0.0.2:41234` -> `10.0.0.2`; empty for what is no IP address."""
    family, _, rest = address.partition(":")
    if family not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
