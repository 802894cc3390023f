"""This node as a member of one swarm: its identity, its agent, and its manager while it has that role.

Life: `start` (founding, joining or coming back), then it follows what the swarm wants of it (certificate renewal,
promotion, demotion) until `stop`. Nothing here decides about membership itself; `membership` does.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import grpc
import msgspec

from api.errors import ShoalError, Unavailable
from api.types.dispatch import SessionMessage
from api.types.objects import NodeDescription
from base.clock import Clock
from base.supervise import TaskOwner, cancel_and_wait
from ca import client
from ca.identity import Identity, IdentityStore, blocks
from ca.renewer import Renewer
from ca.tls import channel
from manager.founding import Founding
from manager.manager import Manager, ManagerConfig
from worker.agent.agent import Agent
from worker.exec.controller import TaskEngine

log = logging.getLogger(__name__)

PROMOTION_RETRY_S = 3.0
START_S = 60.0
"""A manager that starts must know the swarm after this long."""


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """`<data-root>/swarm/state.json`."""

    listen_addr: str
    advertise_addr: str
    remote_managers: list[str] = []
    """Where to ask first after a restart, or for promotion."""
    listen_asked: str = ""
    advertise_asked: str = ""
    """As the user wrote them: an interface's name, and nothing, are looked up anew at each start."""
    advertise_local: bool = False
    """The advertised address was this host's own, not one that others translate."""
    default_advertise: str = ""
    """The daemon's setting of that time: another one at a later start moves the node."""


class SwarmMember:
    """One membership, from founding or joining until it is left."""

    def __init__(
        self,
        directory: Path,
        state: NodeState,
        identity: Identity,
        engine: TaskEngine,
        description: Callable[[], NodeDescription],
        clock: Clock,
    ) -> None:
        self.state = state
        self.identity = identity
        self.error = ""
        """Why the manager ended, if it did."""
        self._directory = directory
        self._clock = clock
        self._identities = IdentityStore(directory / "certificates")
        self._owner = TaskOwner("swarm-member")
        self._role_lock = asyncio.Lock()
        self.manager: Manager | None = None
        self._manager_task: asyncio.Task[None] | None = None
        self._promotion: asyncio.Task[None] | None = None
        self._role_heard = ""
        self._removed = False
        """The manager ended because Raft let it go: its log is of no use any more."""
        seeds = [*([state.advertise_addr] if identity.role == "manager" else []), *state.remote_managers]
        rng = random.Random(secrets.randbits(128))
        self.agent = Agent(
            node_id=identity.node_id,
            description=lambda: msgspec.structs.replace(description(), root_digest=self.identity.root_digest),
            managers=seeds,
            connect=self._connect,
            engine=engine,
            directory=directory,
            clock=clock,
            rng=rng,
            heard=self._heard,
        )
        self._renewer = Renewer(identity, self._renew, self._renewed, clock, rng)

    async def start(self, founding: Founding | None = None) -> None:
        """Run as what the certificate says. Raises what kept the manager from starting; nothing runs then."""
        if self.identity.role == "manager":
            await self._start_manager(founding)
        started = asyncio.Event()
        self._owner.spawn(self.agent.run(started), name="agent")
        self._owner.spawn(self._renewer.run(), name="renewer")

    def commit(self) -> None:
        """Make the membership durable: from here on a restart comes back to it."""
        write_state(self._directory, self.state)
        self._identities.save(self.identity)

    async def stop(self) -> None:
        """End agent and manager; containers run on."""
        if self.manager is not None:
            await self.manager.resign()
        await self._owner.close()
        self.manager = None

    def remote_managers(self) -> list[tuple[str, str]]:
        """(node id, address) of the managers, as last heard."""
        if self.manager is not None and (known := self.manager.managers()):
            return known
        return [(peer.node_id, peer.addr) for peer in self.agent.managers]

    # --- following the swarm ------------------------------------------------------------------------------------

    def _connect(self, addr: str) -> grpc.aio.Channel:
        return channel(addr, self.identity, self.identity.root_pem)

    def _heard(self, message: SessionMessage) -> None:
        self._renewer.role_wanted(message.role)
        self._role_heard = message.role
        self._rejoin_if_wanted()
        self._follow_roots(message.root_ca_pem)
        addrs = [peer.addr for peer in message.managers if peer.addr != self.state.advertise_addr]
        if addrs and addrs != self.state.remote_managers:
            self.state = msgspec.structs.replace(self.state, remote_managers=addrs)
            write_state(self._directory, self.state)

    def _follow_roots(self, roots_pem: bytes) -> None:
        """One root replaces another (ca/rotation.py): a new one is believed with the certificate that comes from it, an
        old one is forgotten when the managers have done so."""
        told, known = blocks(roots_pem), blocks(self.identity.root_pem)
        if told - known:
            self._renewer.renew_now()
        elif told and told < known:
            self.identity = self._renewer.identity = replace(self.identity, root_pem=roots_pem)
            self._identities.save_roots(roots_pem)
            if self.manager is not None:
                self.manager.set_identity(self.identity)
            log.info("the swarm's old root is forgotten")

    async def _renew(self, identity: Identity) -> Identity:
        last: ShoalError = Unavailable("no manager is known")
        for addr in self._manager_addrs():
            try:
                return await client.renew(addr, identity, self._clock.now_ns())
            except ShoalError as error:
                last = error
        if self.manager is not None and self._clock.now_ns() >= identity.expires_ns:
            return self.manager.renew_own()
        raise last

    def _manager_addrs(self) -> Sequence[str]:
        own = [self.state.advertise_addr] if self.manager is not None else []
        return [*own, *self.state.remote_managers]

    async def _renewed(self, identity: Identity) -> None:
        self._identities.save(identity)
        self.identity = identity
        if self.manager is not None:
            self.manager.set_identity(identity)
        async with self._role_lock:
            if identity.role == "manager" and self.manager is None:
                if not await self._try_to_be_manager() and self._promotion is None:
                    self._promotion = self._owner.spawn(self._keep_trying(), name="promotion")
            elif identity.role != "manager":
                await self._stop_manager()
        self.agent.reconnect()

    async def _try_to_be_manager(self) -> bool:
        try:
            await self._start_manager(None)
        except ShoalError as error:
            log.error("promotion failed error=%s", error)
            self.error = error.message
            return False
        return True

    def _rejoin_if_wanted(self) -> None:
        """Taken out of Raft, and wanted as a manager (again), before it ever had another certificate: its log belongs
        to a member that is gone, so it joins as a new one."""
        if self._removed and self._role_heard == self.identity.role == "manager" and self._promotion is None:
            self._promotion = self._owner.spawn(self._keep_trying(), name="promotion")

    async def _keep_trying(self) -> None:
        """A promotion that failed (no leader, another one under way) is tried again until it succeeds or is undone."""
        try:
            while True:
                await asyncio.sleep(PROMOTION_RETRY_S)
                async with self._role_lock:
                    if self.identity.role != "manager" or self.manager is not None:
                        return
                    if self._removed:
                        await self._stop_manager()
                    if await self._try_to_be_manager():
                        return
        finally:
            self._promotion = None

    # --- the manager --------------------------------------------------------------------------------------------

    async def _start_manager(self, founding: Founding | None) -> None:
        config = ManagerConfig(self._directory, self.state.listen_addr, self.state.advertise_addr)
        manager = Manager(
            config, self.identity, self._clock, founding=founding, join_addrs=tuple(self.state.remote_managers)
        )
        ready = asyncio.Event()
        task = self._owner.spawn(self._run_manager(manager, ready), name="manager")
        waiting = self._owner.spawn(ready.wait(), name="manager-ready")
        done, _ = await asyncio.wait((task, waiting), timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if waiting not in done:
            await cancel_and_wait(waiting)
            if task in done:
                raise Unavailable(self.error or "the manager ended while it started")
            await cancel_and_wait(task)
            raise Unavailable("the manager did not come to know the swarm in time")
        self.manager, self._manager_task, self.error = manager, task, ""

    async def _run_manager(self, manager: Manager, ready: asyncio.Event) -> None:
        """A manager that breaks ends alone: the agent, and the tasks of this node, go on."""
        try:
            await manager.run(ready)
            self._removed = True
        except ShoalError as error:
            log.error("the manager ended error=%s", error)
            self.error = error.message
        except Exception as error:
            log.critical("the manager broke", exc_info=error)
            self.error = f"the manager stopped: {error}"
        finally:
            if self.manager is manager:
                self.manager = None
        self._rejoin_if_wanted()

    async def _stop_manager(self) -> None:
        task, self._manager_task = self._manager_task, None
        if task is not None:
            await cancel_and_wait(task)
        self.manager, self._removed = None, False
        for file in self._directory.glob("raft.db*"):
            file.unlink()


def write_state(directory: Path, state: NodeState) -> None:
    """Replace state.json; whole after a crash."""
    temporary = directory / "state.json.tmp"
    temporary.write_bytes(msgspec.json.encode(state))
    temporary.rename(directory / "state.json")


def read_state(directory: Path) -> NodeState | None:
    """None when this node is in no swarm. Raises msgspec.MsgspecError for a damaged file."""
    try:
        return msgspec.json.decode((directory / "state.json").read_bytes(), type=NodeState)
    except FileNotFoundError:
        return None
