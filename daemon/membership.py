"""Being in a swarm or not: init, join, leave, and coming back after a restart (v1.24 section 3.8).

A membership counts from the moment its identity and state.json are on disk; what a crash leaves without them is wiped.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from api.errors import InvalidArgument, NotInSwarm, ShoalError, Unavailable
from api.server.backends import ALREADY_IN_SWARM, NOT_A_MANAGER, WORKER_NOT_A_MANAGER, ControlBackend
from api.server.views import cluster_info
from api.types.cluster import SwarmInit, SwarmJoin
from api.types.objects import NodeDescription
from api.types.system import RemoteManager, SwarmInfo
from base.clock import Clock
from base.supervise import TaskOwner
from ca import client
from ca.certificates import read_root
from ca.identity import Identity, IdentityStore
from daemon.addresses import (
    Interfaces,
    interface_addresses,
    is_literal,
    resolve_advertise,
    resolve_listen,
    resolve_remote,
    still_there,
)
from daemon.config import Config
from daemon.node import NodeState, SwarmMember, read_state, write_state
from manager.founding import found
from manager.manager import Manager
from manager.recovery import found_anew
from worker.exec.controller import TaskEngine

log = logging.getLogger(__name__)

LEAVE_S = 10.0
"""How long a manager that leaves tries to tell the others."""
IS_MANAGER = "You are attempting to leave the swarm on a node that is participating as a manager. "
LAST_MANAGER = "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message."
ONE_OF_MANAGERS = (
    "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. "
    "Use `--force` to suppress this message."
)


class Membership:
    """Satisfies `api.server.backends.ClusterBackend`."""

    def __init__(
        self,
        config: Config,
        engine: TaskEngine,
        remove_tasks: Callable[[], Awaitable[None]],
        description: Callable[[], NodeDescription],
        clock: Clock,
    ) -> None:
        """`remove_tasks` removes every container of a swarm task from the engine."""
        self._config = config
        self._directory: Path = config.data_root / "swarm"
        self._engine = engine
        self._remove_tasks = remove_tasks
        self._description = description
        self._clock = clock
        self._member: SwarmMember | None = None
        self._state = "inactive"
        self._error = ""
        self._lock = asyncio.Lock()
        self._owner = TaskOwner("membership")

    # --- life ---------------------------------------------------------------------------------------------------

    async def start_up(self) -> None:
        """Come back to the swarm this node was in, in the background: the engine serves meanwhile. A failure is shown
        in /info."""
        state = read_state(self._directory)
        identity = IdentityStore(self._directory / "certificates").load()
        if state is None or identity is None:
            self._wipe()
            return
        now = readdressed(state, self._config.swarm_default_advertise_addr, interface_addresses())
        if now != state:
            log.info("this node has moved from=%s to=%s", state.advertise_addr, now.advertise_addr)
            write_state(self._directory, now)
        self._resume(now, identity)

    def _resume(self, state: NodeState, identity: Identity) -> None:
        self._state, self._error = "pending", ""
        self._member = self._make(state, identity)
        self._owner.spawn(self._come_back(self._member), name="come-back")

    async def _come_back(self, member: SwarmMember) -> None:
        async with self._lock:
            try:
                await member.start()
                self._state = "active"
            except ShoalError as error:
                log.error("this node can't take part in its swarm error=%s", error)
                self._state, self._error = "error", error.message

    async def close(self) -> None:
        """Stop taking part; the membership stays."""
        await self._owner.close()
        async with self._lock:
            if self._member is not None:
                await self._member.stop()

    # --- what users ask -----------------------------------------------------------------------------------------

    def control(self) -> ControlBackend:
        return self.manager().control

    def manager(self) -> Manager:
        """This node's manager. Raises NotInSwarm, or Unavailable while it comes back."""
        if self._member is None:
            raise NotInSwarm(NOT_A_MANAGER)
        if self._member.manager is None:
            if self._state == "pending":
                raise Unavailable("this node is coming back to its swarm; try again in a moment")
            if self._member.error and self._member.identity.role == "manager":
                raise Unavailable(self._member.error)
            raise NotInSwarm(WORKER_NOT_A_MANAGER)
        return self._member.manager

    async def init(self, request: SwarmInit) -> str:
        """Found a swarm with this node as its manager; returns the node's id."""
        async with self._lock:
            if request.force_new_cluster and self._member is not None:
                return await self._force_new_cluster(self._member, request)
            if self._member is not None:
                raise NotInSwarm(ALREADY_IN_SWARM)
            state = self._addresses(request.listen_addr, request.advertise_addr)
            root = read_root(self._config.swarm_root_ca) if self._config.swarm_root_ca is not None else None
            founding = found(request.spec, state.advertise_addr, self._clock, root)
            await self._enter(self._make(state, founding.identity), lambda member: member.start(founding))
            return founding.identity.node_id

    async def _force_new_cluster(self, member: SwarmMember, request: SwarmInit) -> str:
        """Make this manager the only one, with all it knows of nodes, services and networks."""
        if member.identity.role != "manager":
            raise NotInSwarm(WORKER_NOT_A_MANAGER)
        state = self._addresses(request.listen_addr, request.advertise_addr, kept=member.state)
        await member.stop()
        self._member = None
        try:
            await asyncio.to_thread(found_anew, self._directory, state.advertise_addr, self._clock)
            fresh = self._make(state, member.identity)
            try:
                await fresh.start()
            except BaseException:
                await fresh.stop()
                raise
        except BaseException:
            self._resume(member.state, member.identity)
            raise
        fresh.commit()
        self._member, self._state, self._error = fresh, "active", ""
        return member.identity.node_id

    async def join(self, request: SwarmJoin) -> None:
        """Become a node of the swarm that the token is of, in the token's role."""
        async with self._lock:
            if self._member is not None:
                raise NotInSwarm(ALREADY_IN_SWARM)
            if not request.join_token:
                raise InvalidArgument("JoinToken: a join token is required")
            remotes = [resolve_remote(addr) for addr in request.remote_addrs]
            if not remotes:
                raise InvalidArgument("RemoteAddrs: the address of at least one manager is required")
            state = self._addresses(request.listen_addr, request.advertise_addr, remotes)
            identity = await self._obtain(remotes, request.join_token)
            await self._enter(self._make(state, identity), lambda member: member.start())

    async def leave(self, *, force: bool) -> None:
        """Leave the swarm and remove its tasks' containers from this node."""
        async with self._lock:
            member = self._member
            if member is None:
                raise NotInSwarm("This node is not part of a swarm")
            if member.identity.role == "manager":
                await self._leave_as_manager(member, force=force)
            await member.stop()
            self._member, self._state, self._error = None, "inactive", ""
            self._wipe()
            await self._remove_tasks()

    def info(self) -> SwarmInfo:
        """The Swarm part of `docker info`."""
        member = self._member
        if member is None:
            return SwarmInfo(local_node_state=self._state, error=self._error)
        info = SwarmInfo(
            node_id=member.identity.node_id,
            node_addr=member.state.advertise_addr.rpartition(":")[0],
            local_node_state=self._state,
            error=self._error or member.error,
            remote_managers=[RemoteManager(node_id=node_id, addr=addr) for node_id, addr in member.remote_managers()],
        )
        if member.manager is not None:
            info.control_available = True
            info.nodes, info.managers = member.manager.counts()
            cluster = member.manager.store.view().cluster()
            info.cluster = cluster_info(cluster) if cluster is not None else None
        return info

    # --- steps --------------------------------------------------------------------------------------------------

    def _make(self, state: NodeState, identity: Identity) -> SwarmMember:
        return SwarmMember(self._directory, state, identity, self._engine, self._description, self._clock)

    def _addresses(
        self, listen: str, advertise: str, remotes: list[str] | None = None, kept: NodeState | None = None
    ) -> NodeState:
        """`kept`: the node's present addresses; the one it is reached at stays, unless the user names another."""
        interfaces, default = interface_addresses(), self._config.swarm_default_advertise_addr
        bound = resolve_listen(listen, interfaces)
        if kept is not None and not advertise and still_there(kept.advertise_addr, interfaces):
            told, advertise = kept.advertise_addr, kept.advertise_asked
        else:
            told = resolve_advertise(advertise, default, bound, interfaces)
        return NodeState(
            listen_addr=bound,
            advertise_addr=told,
            remote_managers=remotes or [],
            listen_asked=listen,
            advertise_asked=advertise,
            advertise_local=still_there(told, interfaces),
            default_advertise=default,
        )

    async def _enter(self, member: SwarmMember, start: Callable[[SwarmMember], Awaitable[None]]) -> None:
        self._wipe()
        self._directory.mkdir(parents=True, mode=0o700)
        self._state = "pending"
        try:
            await start(member)
            member.commit()
        except BaseException:
            await member.stop()
            self._state = "inactive"
            self._wipe()
            raise
        self._member, self._state, self._error = member, "active", ""

    async def _obtain(self, remotes: list[str], token: str) -> Identity:
        last: ShoalError = Unavailable("no manager answered")
        for addr in remotes:
            try:
                return await client.join(addr, token, self._clock)
            except Unavailable as error:
                last = error
        raise last

    async def _leave_as_manager(self, member: SwarmMember, *, force: bool) -> None:
        others = [addr for _, addr in member.remote_managers() if addr != member.state.advertise_addr]
        if not force:
            raise Unavailable(IS_MANAGER + (ONE_OF_MANAGERS if others else LAST_MANAGER))
        if others and member.manager is not None:
            try:
                async with asyncio.timeout(LEAVE_S):
                    await member.manager.leave()
            except (ShoalError, TimeoutError) as error:
                log.warning("left without the other managers' consent error=%s", error)

    def _wipe(self) -> None:
        if self._directory.exists():
            shutil.rmtree(self._directory)


def readdressed(state: NodeState, default: str, interfaces: Interfaces) -> NodeState:
    """Where the node is reached at this start. Pure.

    Another default address than at the last start is the operator's word that the node has moved; that an address which
    was this host's own is so no more says it too. Otherwise an address that the user wrote stays, and an interface is
    looked up again; what can't be found now stays as it was.
    """
    moved = bool(default) and default != state.default_advertise
    local = state.advertise_local or not state.advertise_asked
    try:
        bound = state.listen_addr
        if state.listen_asked and not is_literal(state.listen_asked):
            bound = resolve_listen(state.listen_asked, interfaces)
        anywhere = f"0.0.0.0:{bound.rpartition(':')[2]}"
        if moved or (local and not still_there(state.advertise_addr, interfaces)):
            told = resolve_advertise("", default, anywhere, interfaces)
        elif state.advertise_asked and not is_literal(state.advertise_asked):
            told = resolve_advertise(state.advertise_asked, default, bound, interfaces)
        else:
            told = state.advertise_addr
    except InvalidArgument as error:
        log.warning("the node's address was not found anew reason=%s", error)
        return state
    if told != state.advertise_addr and not still_there(bound, interfaces):
        bound = f"{told.rpartition(':')[0]}:{bound.rpartition(':')[2]}"
    return msgspec.structs.replace(
        state, listen_addr=bound, advertise_addr=told, default_advertise=default or state.default_advertise
    )
