"""Overlay networks on this host: what the managers say, put into the kernel and kept there.

`apply` takes a change in: durable first, then forwarding tables, then the balancing tables of the containers on the
networks, each in one transaction. `join` and `settle` put a new container on its networks, `leave` takes away what the
last one leaves behind. `check` compares everything with the kernel and repairs it.

Invariant: what `_peers` and `_clients` hold is what was last written to the kernel; a write that failed is not in them,
so the next change or check writes it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from api.errors import Forbidden, Internal, ShoalError
from api.types.dataplane import Overlay, OverlayChange, OverlayService
from base.offload import Pool
from worker.engine.networks import balancing, planning, vxlan
from worker.engine.networks import records as r
from worker.engine.networks.catalog import Catalog
from worker.engine.networks.conntrack import forget_backends
from worker.engine.networks.nft import Context, apply_here
from worker.engine.networks.overlaystate import Effect, OverlayState, changed_backends
from worker.engine.networks.records import NetworkRecord, SandboxRecord
from worker.engine.records import Delete, Put, Records
from worker.engine.syscalls import netns

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

Backends = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Report:
    """What a check found and put right."""

    desired_index: int
    applied_index: int
    repairs: tuple[str, ...]
    """What was wrong, one line each."""
    failures: tuple[str, ...] = ()
    """What could not be put right."""


class Overlays:
    """One per daemon."""

    def __init__(
        self, records: Records, directory: Path, catalog: Catalog, sandboxes: Callable[[], Collection[SandboxRecord]]
    ) -> None:
        """
        Args:
            directory: where the networks' namespaces are kept (below the exec root).
            sandboxes: all containers' places, as they are now.
        """
        self.directory = directory
        self.state = OverlayState()
        self.applied_index = 0
        """Up to here the kernel has it."""
        self.repaired = 0
        """How often a check found something wrong."""
        self._records = records
        self._catalog = catalog
        self._sandboxes = sandboxes
        self._pool = Pool("overlay", 2)
        self._lock = asyncio.Lock()
        self._peers: dict[str, dict[str, str]] = {}
        """Of the networks that stand: what their forwarding tables hold."""
        self._clients: dict[str, dict[str, tuple[str, ...]]] = {}
        """By sandbox: what its balancing table holds."""

    # --- life -------------------------------------------------------------------------------------------------

    async def start_up(self) -> None:
        """What was known before the restart holds until the managers say otherwise."""
        networks = await self._records.all(r.OVERLAYS, Overlay)
        services = await self._records.all(r.OVERLAY_SERVICES, OverlayService)
        change = OverlayChange(
            index=0, complete=True, update=list(networks.values()), update_services=list(services.values())
        )
        self.state.apply(change)
        for network in networks.values():
            self._catalog.add(record_of(network))

    async def close(self) -> None:
        """The kernel keeps everything."""
        await asyncio.to_thread(self._pool.close)

    # --- what the managers say --------------------------------------------------------------------------------

    async def apply(self, change: OverlayChange) -> bool:
        """Take a change in. Answers whether the kernel has all of it; what it has not, the next check tries again."""
        async with self._lock:
            effect = self.state.apply(change)
            if effect:
                await self._save(effect)
            complete = True
            for network_id in sorted(effect.touched):
                complete &= await self._tried(self._write_peers(network_id), f"peers of network {network_id}")
            for sandbox in self._clients_of(effect.touched):
                complete &= await self._tried(self._rebalance(sandbox, effect), f"balancing of {sandbox.container_id}")
            for network_id in effect.removed:
                complete &= await self._tried(self._drop_if_unused(network_id), f"removal of network {network_id}")
            return complete

    def acknowledge(self) -> None:
        """All of the state is in the kernel."""
        self.applied_index = self.state.index

    async def _save(self, effect: Effect) -> None:
        changes: list[Put | Delete] = []
        for network in effect.networks.values():
            changes.append(Put(r.OVERLAYS, network.id, network))
            self._catalog.add(record_of(network))
        for network_id in effect.removed:
            changes.append(Delete(r.OVERLAYS, network_id))
            self._catalog.drop(network_id)
        for before, after in effect.services:
            if after is not None:
                changes.append(Put(r.OVERLAY_SERVICES, after.key, after))
            elif before is not None:
                changes.append(Delete(r.OVERLAY_SERVICES, before.key))
        await self._records.write(*changes)

    async def _tried(self, work: Coroutine[Any, Any, Any], what: str) -> bool:
        try:
            await work
        except (ShoalError, OSError) as error:
            log.error("data plane not written what=%r error=%s", what, error)
            return False
        return True

    async def _write_peers(self, network_id: str) -> None:
        known = self._peers.get(network_id)
        if known is None:
            return  # nobody here is on it
        wanted = self.state.peers(network_id)
        missing = {address: node for address, node in wanted.items() if known.get(address) != node}
        surplus = frozenset(address for address in known if address not in wanted)
        if missing or surplus:
            await self._run(vxlan.change, self.path(network_id), missing, surplus)
            self._peers[network_id] = wanted

    def _clients_of(self, network_ids: Collection[str]) -> list[SandboxRecord]:
        return [
            sandbox
            for sandbox in self._sandboxes()
            if sandbox.id in self._clients and any(made.network_id in network_ids for made in sandbox.endpoints)
        ]

    async def _rebalance(self, sandbox: SandboxRecord, effect: Effect) -> None:
        known = self._clients[sandbox.id]
        before, after = changed_backends(effect, _balanced(sandbox, self.state))
        held = {vip: known[vip] for vip in {*before, *after} if vip in known}
        commands = balancing.change_client(held, after)
        if not commands:
            return
        gone = {address for vip, had in before.items() for address in had if address not in after.get(vip, ())}
        try:
            await self._run(_apply_in, Path(sandbox.netns), commands, gone)
        except Internal as error:
            log.warning("balancing is not as we left it, written anew error=%s", error)
            await self._write_client(sandbox)
            return
        except OSError:
            if any(other.id == sandbox.id for other in self._sandboxes()):
                raise
            return  # the container has just ended
        for vip in before:
            known.pop(vip, None)
        known.update(after)

    # --- containers -------------------------------------------------------------------------------------------

    def check_place(self, sandbox: SandboxRecord) -> None:
        """Raises Forbidden unless the managers gave this container its addresses."""
        for made in sandbox.endpoints:
            if not made.overlay:
                continue
            network = self.state.networks.get(made.network_id)
            mine = self.state.assigned(made.network_id, sandbox.container_name, made.address) is not None
            gate = sandbox.container_id == r.GATE and network is not None and network.gate.startswith(made.address)
            if not mine and not gate:
                raise planning.not_attachable(self._catalog.networks[made.network_id])

    async def join(self, sandbox: SandboxRecord) -> None:
        """Before its links are made: the networks stand. Raises Internal, OSError."""
        async with self._lock:
            for made in sandbox.endpoints:
                if made.overlay:
                    await self._stand_up(made.network_id)

    async def _stand_up(self, network_id: str) -> None:
        network = self.state.networks.get(network_id)
        if network is None:
            raise Forbidden(f"network {network_id} is not here any more")
        made = await self._run(vxlan.ensure, self.path(network_id), network)
        if made or network_id not in self._peers:
            wanted = self.state.peers(network_id)
            found = await self._run(vxlan.differences, self.path(network_id), wanted)
            await self._run(vxlan.change, self.path(network_id), found.missing, found.surplus)
            self._peers[network_id] = wanted

    async def settle(self, sandbox: SandboxRecord) -> None:
        """After its links are made: virtual addresses work inside."""
        if not sandbox.owned or not _balanced(sandbox, self.state):
            return
        async with self._lock:
            await self._write_client(sandbox)

    async def _write_client(self, sandbox: SandboxRecord) -> None:
        wanted = self.state.backends(_balanced(sandbox, self.state))
        await self._run(_apply_in, Path(sandbox.netns), balancing.whole_client(wanted))
        self._clients[sandbox.id] = wanted

    async def leave(self, sandbox: SandboxRecord) -> None:
        """Its namespace is gone. A network that the managers took away goes with its last container."""
        async with self._lock:
            self._clients.pop(sandbox.id, None)
            for made in sandbox.endpoints:
                if made.overlay:
                    await self._tried(self._drop_if_unused(made.network_id), f"removal of network {made.network_id}")

    async def _drop_if_unused(self, network_id: str) -> None:
        if network_id in self.state.networks:
            return
        if any(made.network_id == network_id for sandbox in self._sandboxes() for made in sandbox.endpoints):
            return
        self._peers.pop(network_id, None)
        await self._run(vxlan.remove, self.path(network_id))

    # --- names ------------------------------------------------------------------------------------------------

    def lookup(self, sandbox: SandboxRecord, name: str) -> list[str] | None:
        """Addresses of a name on the sandbox's overlays, their own first; None for nobody's. A network's name may
        follow."""
        name = name.rstrip(".").lower()
        known: list[str] | None = None
        for network_id, network_name in self._named(sandbox):
            bare = name.removesuffix("." + network_name.lower())
            for wanted in dict.fromkeys((name, bare)):
                found = self.state.names.lookup(network_id, wanted)
                if found:
                    return found
                known = known if found is None else found
        return known

    def reverse(self, sandbox: SandboxRecord, address: str) -> str | None:
        for network_id, network_name in self._named(sandbox):
            found = self.state.names.reverse(network_id, address)
            if found is not None:
                return f"{found}.{network_name}"
        return None

    def _named(self, sandbox: SandboxRecord) -> Iterable[tuple[str, str]]:
        for network_id in _balanced(sandbox, self.state):
            yield network_id, self.state.networks[network_id].name

    # --- the reconciler ---------------------------------------------------------------------------------------

    async def check(self) -> Report:
        """Compare the kernel with the state, network by network and container by container, and put it right."""
        repairs: list[str] = []
        failures: list[str] = []
        async with self._lock:
            for network_id, network in list(self.state.networks.items()):
                if self._stands(network_id):
                    await self._checked(self._check_network(network), f"network {network.name}", repairs, failures)
            for sandbox in list(self._sandboxes()):
                if sandbox.owned and sandbox.id in self._clients:
                    what = f"balancing of {sandbox.container_name}"
                    await self._checked(self._check_client(sandbox), what, repairs, failures)
            await self._sweep(repairs)
        self.repaired += len(repairs)
        for line in repairs:
            log.warning("data plane repaired what=%r", line)
        return Report(self.state.index, self.applied_index, tuple(repairs), tuple(failures))

    def _stands(self, network_id: str) -> bool:
        return any(made.network_id == network_id for sandbox in self._sandboxes() for made in sandbox.endpoints)

    async def _checked(
        self, work: Coroutine[Any, Any, Any], what: str, repairs: list[str], failures: list[str]
    ) -> None:
        try:
            found = await work
        except (ShoalError, OSError) as error:
            failures.append(f"{what}: {error}")
            return
        if found:
            repairs.append(f"{what}: {found}")

    async def _check_network(self, network: Overlay) -> str:
        path, wanted = self.path(network.id), self.state.peers(network.id)
        if not await self._run(netns.is_namespace, path):
            self._peers.pop(network.id, None)
            await self._stand_up(network.id)
            return "made anew"
        found = await self._run(vxlan.differences, path, wanted)
        self._peers[network.id] = wanted
        if not found:
            return ""
        await self._run(vxlan.change, path, found.missing, found.surplus)
        return f"{len(found.missing)} entries missing or wrong, {len(found.surplus)} too many"

    async def _check_client(self, sandbox: SandboxRecord) -> str:
        wanted = self.state.backends(_balanced(sandbox, self.state))
        same = await self._run(_client_is, Path(sandbox.netns), wanted)
        if same:
            self._clients[sandbox.id] = wanted
            return ""
        await self._write_client(sandbox)
        return "the table was not as it should be"

    async def _sweep(self, repairs: list[str]) -> None:
        """Namespaces of networks that nobody is on."""
        if not self.directory.is_dir():
            return
        for path in list(self.directory.iterdir()):
            if not self._stands(path.name):
                self._peers.pop(path.name, None)
                await self._run(vxlan.remove, path)
                if path.name not in self.state.networks:
                    repairs.append(f"namespace of a network that is not here: {path.name}")

    async def take_up(self) -> None:
        """After a restart of the daemon: networks and tables of the containers that ran on are put right."""
        async with self._lock:
            for sandbox in self._sandboxes():
                for made in sandbox.endpoints:
                    if made.overlay and made.network_id in self.state.networks:
                        await self._tried(self._stand_up(made.network_id), f"network {made.network_id}")
                if sandbox.owned and _balanced(sandbox, self.state):
                    await self._tried(self._write_client(sandbox), f"balancing of {sandbox.container_id}")
            await self._sweep([])

    # --- small things -----------------------------------------------------------------------------------------

    def path(self, network_id: str) -> Path:
        return self.directory / network_id

    async def _run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._pool.run(function, *args, **kwargs)


def _balanced(sandbox: SandboxRecord, state: OverlayState) -> list[str]:
    """The networks on which a container reaches services by name: the ingress network is for the mesh alone."""
    if sandbox.container_id == r.GATE:
        return []
    return [
        made.network_id
        for made in sandbox.endpoints
        if made.overlay and made.network_id in state.networks and not state.networks[made.network_id].ingress
    ]


def record_of(overlay: Overlay) -> NetworkRecord:
    """The network as the catalog of this host knows it."""
    return NetworkRecord(
        id=overlay.id,
        name=overlay.name,
        driver=r.OVERLAY,
        created_ns=overlay.created_ns,
        internal=overlay.internal,
        attachable=overlay.attachable,
        options=overlay.options | {r.OPTION_MTU: str(overlay.mtu)},
        labels=overlay.labels,
        pools=tuple((pool.subnet, pool.gateway) for pool in overlay.pools),
    )


def _apply_in(namespace: Path, commands: str, gone: Collection[str] = ()) -> None:
    """Run nft commands in a namespace, then forget the UDP flows to backends that are gone."""

    def work() -> None:
        apply_here(commands)
        if gone:
            forget_backends(gone)

    netns.call(namespace, work)


def _client_is(namespace: Path, wanted: Backends) -> bool:
    """Whether the table in the namespace is the one that would be written: both are listed, the second from a namespace
    that lasts as long as the question."""
    show = f"list table ip {balancing.TABLE}"

    def read() -> str:
        context = Context()
        try:
            return context.run(show)
        except Internal:
            return ""  # there is no such table
        finally:
            context.free()

    def write_and_read() -> str:
        apply_here(balancing.whole_client(wanted))
        return read()

    return balancing.tokens(netns.call(namespace, read)) == balancing.tokens(netns.in_new(write_and_read))
