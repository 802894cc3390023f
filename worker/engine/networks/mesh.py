"""The routing mesh on this host: a published port answers on every node, wherever its tasks run.

A connection goes straight to a task of this host if there is one, with the client's address kept. Else it goes to the
gate, a namespace with one foot on the ingress network, which sends it to a task of another host under the gate's own
address, so that the answer comes back. A service that is local-only is never sent to the gate.

Invariant: what is written is a function of the overlay state and of the sandboxes; `refresh` may be called at any time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

from api.errors import Internal, ShoalError
from api.types.dataplane import Overlay, OverlayService
from api.types.endpoint import EndpointIPAMConfig, EndpointSettings
from base.offload import Pool
from worker.engine.networks import balancing
from worker.engine.networks import records as r
from worker.engine.networks.balancing import Publications, Target
from worker.engine.networks.conntrack import forget_backends
from worker.engine.networks.links import sysctl
from worker.engine.networks.nft import Context, Nft, apply_here
from worker.engine.networks.overlaystate import OverlayState, serving
from worker.engine.networks.ports import HostPorts
from worker.engine.networks.records import SandboxRecord
from worker.engine.networks.rules import ANY
from worker.engine.parts import NetworkRequest
from worker.engine.syscalls import netns

log = logging.getLogger(__name__)

GATE_NAME = "ingress-endpoint"
OUTWARD = "eth0"
"""The gate's link on the ingress network."""


def published(services: Collection[OverlayService]) -> dict[tuple[str, int], OverlayService]:
    """(protocol, port) to the service that owns it."""
    return {(port.protocol, port.published): service for service in services for port in service.ports}


def gate_targets(services: Collection[OverlayService]) -> dict[tuple[str, int], list[Target]]:
    """What the gate does with each port: all serving tasks, on whatever node."""
    return {
        (port.protocol, port.published): [(address, port.target) for address in serving(service)]
        for service in services
        for port in service.ports
        if not service.local_only
    }


def host_targets(
    services: Collection[OverlayService], local: Mapping[str, str], gate: str
) -> dict[tuple[str, int], list[Target]]:
    """What the host does with each port.

    Args:
        local: task name to its address on this host's gateway bridge.
        gate: the gate's address on that bridge; empty while there is none.
    """
    found: dict[tuple[str, int], list[Target]] = {}
    for service in services:
        here = [local[task.name] for task in service.tasks if task.serving and task.name in local]
        for port in service.ports:
            targets: list[Target] = [(address, port.target) for address in here]
            if not targets and gate and serving(service) and not service.local_only:
                targets = [(gate, port.published)]
            found[port.protocol, port.published] = targets
    return found


def udp_gone(before: Publications, after: Publications) -> set[str]:
    """Addresses that some UDP port does not lead to any more."""
    return {
        address
        for (protocol, port), targets in before.items()
        if protocol == "udp"
        for address, number in targets
        if (address, number) not in after.get((protocol, port), ())
    }


class Mesh:
    """One per daemon."""

    def __init__(
        self,
        table: str,
        state: OverlayState,
        sandboxes: Callable[[], Mapping[str, SandboxRecord]],
        ports: HostPorts,
        attach: Callable[[NetworkRequest], Awaitable[object]],
        detach: Callable[[str], Awaitable[None]],
        directory: Path,
    ) -> None:
        """
        Args:
            attach, detach: the controller's, for the gate.
            directory: where the gate's files are kept.
        """
        self.table = f"{table}_mesh"
        self._state = state
        self._sandboxes = sandboxes
        self._ports = ports
        self._attach = attach
        self._detach = detach
        self._directory = directory
        self._nft = Nft()
        self._pool = Pool("mesh", 1)
        self._lock = asyncio.Lock()
        self._host: Publications | None = None
        self._gate: Publications | None = None
        self._held: set[tuple[str, int]] = set()

    async def close(self) -> None:
        """Rules and gate stay."""
        await self._nft.close()
        await asyncio.to_thread(self._pool.close)

    async def refresh(self) -> bool:
        """Write what is wanted now. Answers whether the kernel has it."""
        async with self._lock:
            try:
                await self._write()
            except (ShoalError, OSError) as error:
                log.error("routing mesh not written error=%s", error)
                self._host = self._gate = None
                return False
            return True

    async def _write(self) -> None:
        ingress = self._state.ingress()
        services = [service for service in self._state.on(ingress.id) if service.ports] if ingress is not None else []
        if ingress is None or not services:
            await self._take_away()
            return
        gate = await self._stand_up(ingress, services)
        gates = gate_targets(services)
        if gate is not None and gates != self._gate:
            gone = udp_gone(self._gate or {}, gates)
            await self._write_gate(Path(gate.netns), gates, gone)
        wanted = host_targets(services, self._local(), _on_gateway(gate) if gate is not None else "")
        self._hold(set(wanted))
        if wanted != self._host:
            gone = udp_gone(self._host or {}, wanted)
            await self._write_host(wanted)
            if gone:
                await self._pool.run(forget_backends, gone)

    async def _write_gate(self, namespace: Path, wanted: Publications, gone: Collection[str]) -> None:
        """The difference to what it holds; all of it if that is not known, or not so."""
        if self._gate:
            try:
                changes = balancing.change_publications(balancing.GATE, self._gate, wanted)
                await self._pool.run(_apply_in, namespace, changes, gone)
            except Internal as error:
                log.warning("gate is not as we left it, written anew error=%s", error)
            else:
                self._gate = wanted
                return
        await self._pool.run(_apply_in, namespace, balancing.whole_gate(wanted, OUTWARD), gone)
        self._gate = wanted

    async def _write_host(self, wanted: Publications) -> None:
        if self._host:
            try:
                await self._nft.run(balancing.change_publications(self.table, self._host, wanted))
            except Internal as error:
                log.warning("mesh is not as we left it, written anew error=%s", error)
            else:
                self._host = wanted
                return
        await self._nft.run(balancing.whole_mesh(self.table, wanted))
        self._host = wanted

    async def _take_away(self) -> None:
        self._hold(set())
        if self._host is None or self._host:
            await self._nft.run(f"add table ip {self.table}\ndelete table ip {self.table}")
            self._host = {}
        if r.GATE in self._sandboxes():
            await self._detach(r.GATE)
        self._gate = None

    async def _stand_up(self, ingress: Overlay, services: Collection[OverlayService]) -> SandboxRecord | None:
        """The gate, made if some port needs it; None when the managers have given it no address yet."""
        known = self._sandboxes().get(r.GATE)
        address = ingress.gate.partition("/")[0]
        stands = known is not None and any(made.address == address for made in known.endpoints)
        if known is not None and stands and await self._pool.run(netns.is_namespace, Path(known.netns)):
            return known
        if not address:
            return None
        self._gate = None
        await self._attach(
            NetworkRequest(
                container_id=r.GATE,
                container_name=GATE_NAME,
                hostname=GATE_NAME,
                mode=ingress.id,
                endpoints={ingress.id: EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address=address))},
                directory=self._directory,
            )
        )
        made = self._sandboxes()[r.GATE]
        await self._pool.run(netns.call, Path(made.netns), lambda: sysctl("ipv4/ip_forward", "1"))
        return made

    def _local(self) -> dict[str, str]:
        return {
            sandbox.container_name: address
            for sandbox in self._sandboxes().values()
            if sandbox.container_id != r.GATE and (address := _on_gateway(sandbox))
        }

    def _hold(self, wanted: set[tuple[str, int]]) -> None:
        """Sockets on the published ports, so that other programs see them in use."""
        for protocol, port in self._held - wanted:
            self._ports.give_back(protocol, ANY, port)
        self._held &= wanted
        for protocol, port in wanted - self._held:
            if self._ports.hold_again(protocol, ANY, port):
                self._held.add((protocol, port))
            else:
                log.warning("published port is also used by another program port=%d/%s", port, protocol)

    async def check(self) -> str:
        """Compare with the kernel, and write what is wanted; what was wrong, empty if nothing was."""
        async with self._lock:
            wrong: list[str] = []
            if self._host and not await self._same_host():
                wrong.append("the host's table")
                self._host = None
            gate = self._sandboxes().get(r.GATE)
            if self._gate is not None and (gate is None or not await self._same_gate(gate)):
                wrong.append("the gate's table")
                self._gate = None
            await self._write()
            return " and ".join(wrong)

    async def _same_host(self) -> bool:
        assert self._host is not None
        text = balancing.whole_mesh(self.table, self._host)
        try:
            now = await self._nft.run(f"list table ip {self.table}")
        except Internal:
            return False
        return balancing.tokens(now) == await self._pool.run(_as_listed, text, self.table)

    async def _same_gate(self, gate: SandboxRecord) -> bool:
        assert self._gate is not None
        text = balancing.whole_gate(self._gate, OUTWARD)
        now = await self._pool.run(_listed_in, Path(gate.netns), balancing.GATE)
        return now == await self._pool.run(_as_listed, text, balancing.GATE)


def _on_gateway(sandbox: SandboxRecord) -> str:
    return next((made.address for made in sandbox.endpoints if made.network_name == r.GATEWAY_NETWORK), "")


def _apply_in(namespace: Path, commands: str, gone: Collection[str]) -> None:
    def work() -> None:
        apply_here(commands)
        if gone:
            forget_backends(gone)

    netns.call(namespace, work)


def _listed_in(namespace: Path, table: str) -> list[str]:
    return netns.call(namespace, lambda: _listed(table))


def _as_listed(commands: str, table: str) -> list[str]:
    """How the kernel would show a table, from a namespace that lasts as long as the question."""

    def work() -> list[str]:
        apply_here(commands)
        return _listed(table)

    return netns.in_new(work)


def _listed(table: str) -> list[str]:
    context = Context()
    try:
        return balancing.tokens(context.run(f"list table ip {table}"))
    except Internal:
        return []  # there is no such table
    finally:
        context.free()
