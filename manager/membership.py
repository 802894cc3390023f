"""Raft membership and the node records that go with it: who joins, who leaves, who is promoted or demoted.

Runs on the leader. Invariant: a Raft id belongs to one node for ever; a node that comes back without its log gets a
new one, since its old self may have voted.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable

import msgspec

from api import errors
from api.types.dispatch import RaftJoinResponse, RaftPeer
from api.types.objects import Certificate, ManagerStatus, Node
from api.types.swarm import NodeSpec
from manager import operations as ops
from manager.roles import role_now
from manager.store.store import Batch, Store
from manager.store.transitions import Component
from raft.errors import LeadershipLost, NotLeader
from raft.node import RaftNode

log = logging.getLogger(__name__)

KEEP_S = 1.0
TURNS, TURN_S = 50, 0.1


def new_raft_id() -> int:
    """63 random bits, never 0."""
    return secrets.randbits(63) or 1


class Membership:
    """Satisfies `manager.controlapi.writes.RaftMembers`."""

    def __init__(self, store: Store, raft: RaftNode) -> None:
        self._store = store
        self._raft = raft
        self._changing = asyncio.Lock()
        """A joiner's old id is gone before its new one is written: nobody else may judge by that in between."""

    def handlers(self) -> ops.Handlers:
        return {
            ops.RegisterNode: self.register_node,
            ops.JoinMember: self.join,
            ops.LeaveMember: self.leave,
            ops.MoveMember: self.move,
            ops.GetMembers: self.members,
        }

    async def run(self) -> None:
        """Gives learners their vote once they have caught up, takes demoted nodes out of the managers, and out of Raft
        whoever is no manager. Until cancelled."""
        async with self._store.watch(("nodes",)) as watch:
            while True:
                await self._keep()
                await watch.next(KEEP_S)

    async def _keep(self) -> None:
        await self._step("clean-up", self._settle_former())
        for node in self._store.view().all(Node):
            if node.manager_status is not None and node.spec.role == "worker":
                await self._step("demotion", self._demote(node, node.manager_status))
        named = {node.manager_status.raft_id for node in self._store.view().all(Node) if node.manager_status}
        for raft_id, member in self._raft.status().members.items():
            if raft_id not in named:
                await self._step("removal", self.remove(raft_id))
            elif member.learner and member.recent_active:
                await self._step("promotion", self._raft.promote(raft_id))

    async def _step(self, what: str, step: Awaitable[None]) -> None:
        """What can't be done now is tried again at the next look; only lost leadership ends the loop."""
        try:
            await step
        except errors.ShoalError as error:
            if not self._raft.status().is_leader:
                raise
            log.info("%s waits reason=%s", what, error)

    # --- what the control API asks ------------------------------------------------------------------------------

    def safe_to_remove(self, raft_id: int) -> bool:
        """Whether the voters that stay have a majority of reachable ones."""
        members = self._raft.status().members
        rest = [member for other, member in members.items() if other != raft_id and not member.learner]
        return sum(member.recent_active for member in rest) > len(rest) // 2

    async def remove(self, raft_id: int) -> None:
        """Take a member out of Raft; one that is out already is fine."""
        try:
            await self._raft.remove(raft_id)
        except errors.NotFound:
            return

    # --- operations ---------------------------------------------------------------------------------------------

    async def register_node(self, operation: ops.RegisterNode) -> None:
        """The node exists from its first certificate on.

        Raises Unavailable when the certificate is for a role that the node may not have now: the manager that issued it
        has not heard yet (a member that Raft has let go never will), and another one has to be asked.
        """
        certificate = Certificate(role=operation.role, certificate_pem=operation.certificate_pem, state="issued")

        def change(batch: Batch) -> None:
            node = batch.view.get(Node, operation.node_id)
            if node is None:
                cluster = batch.view.cluster()
                if cluster is not None and operation.node_id in cluster.removed_nodes:
                    raise errors.Forbidden(f"node {operation.node_id} was removed from the swarm")
                spec = NodeSpec(role=operation.role, availability="active")
                node = Node(id=operation.node_id, spec=spec)
            elif operation.role != role_now(node):
                raise errors.Unavailable(f"node {node.id} is to be a {role_now(node)} now, not a {operation.role}")
            batch.put(msgspec.structs.replace(node, role=operation.role, certificate=certificate))

        await self._store.update(Component.MANAGER, change)

    async def join(self, operation: ops.JoinMember) -> RaftJoinResponse:
        """Add the node as a learner; `run` promotes it when it has the log."""
        node = self._store.view().get(Node, operation.node_id)
        if node is None:
            raise errors.Forbidden(f"node {operation.node_id} is not part of the swarm")
        if node.spec.role != "manager":
            raise errors.Forbidden(f"node {operation.node_id} is not to be a manager")
        raft_id = new_raft_id()
        async with self._changing:
            if node.manager_status is not None and node.manager_status.raft_id:
                await self.remove(node.manager_status.raft_id)
            await self._set_manager_status(operation.node_id, ManagerStatus(raft_id=raft_id, addr=operation.addr))
            await self._add_learner(raft_id, operation.addr)
        log.info("manager joins node=%s raft_id=%x addr=%s", operation.node_id, raft_id, operation.addr)
        return RaftJoinResponse(raft_id=raft_id, peers=self._peers())

    async def leave(self, operation: ops.LeaveMember) -> None:
        """Take a manager out that wants to go. The leader hands over first: NotLeader sends the caller to the next."""
        node = self._store.view().get(Node, operation.node_id)
        if node is None or node.manager_status is None:
            return
        raft_id = node.manager_status.raft_id
        if not self.safe_to_remove(raft_id):
            raise errors.Conflict("can't remove member from the raft: this would result in a loss of quorum")
        if raft_id == self._raft.raft_id:
            await self._raft.transfer_leadership()
            raise NotLeader
        await self.remove(raft_id)
        await self._set_manager_status(node.id, None)

    async def move(self, operation: ops.MoveMember) -> None:
        """Raft first: it is what has to reach the member."""
        node = self._store.view().get(Node, operation.node_id)
        if node is None or node.manager_status is None:
            raise errors.NotFound(f"node {operation.node_id} is no manager")
        status = node.manager_status
        member = self._raft.status().members.get(status.raft_id)
        if member is not None and member.addr != operation.addr:
            await self._raft.update_addr(status.raft_id, operation.addr)
        await self._set_manager_status(node.id, msgspec.structs.replace(status, addr=operation.addr))
        log.info("manager moved node=%s addr=%s", node.id, operation.addr)

    async def members(self, operation: ops.GetMembers) -> ops.Members:
        return {
            str(raft_id): ops.MemberState(leader=member.is_leader, reachable=member.recent_active)
            for raft_id, member in self._raft.status().members.items()
        }

    # --- steps --------------------------------------------------------------------------------------------------

    async def _add_learner(self, raft_id: int, addr: str) -> None:
        """Raft makes one change at a time: while two nodes join, the later one waits its turn."""
        for _ in range(TURNS):
            try:
                await self._raft.add_learner(raft_id, addr)
                return
            except (NotLeader, LeadershipLost):
                raise
            except errors.Unavailable as error:
                log.info("a join waits raft_id=%x reason=%s", raft_id, error)
            await asyncio.sleep(TURN_S)
        await self._raft.add_learner(raft_id, addr)

    async def _demote(self, node: Node, status: ManagerStatus) -> None:
        """Raft first: only then is the node told, and stops (manager/roles.py)."""
        if not self.safe_to_remove(status.raft_id):
            return
        if status.raft_id == self._raft.raft_id:
            await self._raft.transfer_leadership()
            return
        await self.remove(status.raft_id)
        await self._set_manager_status(node.id, None)
        log.info("manager demoted node=%s", node.id)

    async def _settle_former(self) -> None:
        """Nodes whose Raft id was taken out are no managers, whatever was interrupted in between: so is everybody but
        one after `--force-new-cluster`. They become workers, and may be promoted again."""
        async with self._changing:
            former = self._raft.status().former

            def change(batch: Batch) -> None:
                for node in batch.view.all(Node):
                    if node.manager_status is not None and node.manager_status.raft_id in former:
                        spec = msgspec.structs.replace(node.spec, role="worker")
                        batch.put(msgspec.structs.replace(node, manager_status=None, spec=spec))

            await self._store.update(Component.MANAGER, change)

    async def _set_manager_status(self, node_id: str, status: ManagerStatus | None) -> None:
        def change(batch: Batch) -> None:
            node = batch.view.get(Node, node_id)
            if node is not None and node.manager_status != status:
                batch.put(msgspec.structs.replace(node, manager_status=status))

        await self._store.update(Component.MANAGER, change)

    def _peers(self) -> list[RaftPeer]:
        nodes = {node.manager_status.raft_id: node.id for node in self._store.view().all(Node) if node.manager_status}
        return [
            RaftPeer(raft_id=raft_id, node_id=nodes.get(raft_id, ""), addr=member.addr)
            for raft_id, member in self._raft.status().members.items()
        ]
