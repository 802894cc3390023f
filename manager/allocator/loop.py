"""The allocator's shell: networks get their pools, nodes their gate of the routing mesh, services their endpoint; and
NEW tasks of an allocated service get their addresses and become PENDING."""

from __future__ import annotations

import logging
from collections.abc import Collection

import msgspec

from api.errors import ShoalError
from api.types.objects import NetworkAttachment, Node, Service, SwarmNetwork, Task, TaskState
from base.ids import swarm_id
from manager.allocator import networks as nets
from manager.allocator import ports
from manager.allocator.networks import Addresses
from manager.store.memory import Change
from manager.store.store import ACTIONS_MAX, Batch, Store
from manager.store.transitions import Component

log = logging.getLogger(__name__)

PENDING = "pending task scheduling"


class Allocator:
    """Leader only. Owns NEW → PENDING, `service.endpoint`, `task.networks`, `node.attachments` and what a network is
    given beyond its spec."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last: dict[str, int] = {}
        """Address taken last, per network. A new leader begins anew: only the order of addresses depends on it."""
        self._last_vni = 0
        self._starved = False
        """Something could not be had: whatever is freed may be it."""

    async def run(self) -> None:
        """Runs until cancelled."""
        async with self._store.watch(("services", "tasks", "networks", "nodes", "clusters")) as watch:
            await self.allocate()
            while True:
                batch = await watch.next()
                if batch.rescan or any(map(self._matters, batch.changes)):
                    await self.allocate()

    def _matters(self, change: Change) -> bool:
        if change.table == "tasks":
            if change.new is not None and change.new.status.state is TaskState.NEW:
                return change.old is None or self._starved
            return self._starved and (change.new is None or change.new.status.state.terminal)
        if change.table == "nodes":
            return change.old is None or (self._starved and change.new is None)
        return True

    async def allocate(self) -> None:
        """Do all that can be done now."""
        while await self._store.update(Component.ALLOCATOR, self._tick):
            pass

    def _tick(self, batch: Batch) -> bool:
        self._starved = False
        networks = self._networks(batch)
        view = batch.view
        addresses = Addresses(networks, view.all(Service), view.all(Task), view.all(Node), self._last)
        ingress = next((network for network in networks if network.spec.ingress), None)
        if ingress is not None and ingress.allocated:
            self._gates(batch, ingress, addresses)
        ingress_id = ingress.id if ingress is not None else ""
        services = self._services(batch, ingress_id, addresses)
        ready = [task for task in view.tasks_in_state(TaskState.NEW) if task.service_id in services]
        for task in ready[:ACTIONS_MAX]:
            self._task(batch, task, services[task.service_id], ingress_id, addresses)
        return len(ready) > ACTIONS_MAX

    # --- networks and nodes -------------------------------------------------------------------------------------

    def _networks(self, batch: Batch) -> list[SwarmNetwork]:
        """All networks, with those allocated in this transaction; the ingress network is made with the swarm."""
        known = {network.id: network for network in batch.view.all(SwarmNetwork)}
        if batch.view.cluster() is not None and not any(network.spec.ingress for network in known.values()):
            made = SwarmNetwork(id=swarm_id(), spec=nets.INGRESS)
            known[made.id] = made
        for network in list(known.values()):
            if network.allocated:
                continue
            others = [other for other in known.values() if other.id != network.id]
            outcome = nets.allocate_network(network, others, batch.view.all(Node), self._last_vni)
            if isinstance(outcome, ShoalError):
                log.error("no pool for network=%s error=%s", network.spec.name, outcome.message)
                self._starved = True
                continue
            known[network.id] = outcome
            self._last_vni = outcome.vni
            batch.put(outcome)
        return list(known.values())

    def _gates(self, batch: Batch, ingress: SwarmNetwork, addresses: Addresses) -> None:
        for node in batch.view.all(Node):
            if any(attachment.network_id == ingress.id for attachment in node.attachments):
                continue
            address = addresses.take(ingress.id)
            if isinstance(address, nets.Exhausted):
                log.error("no address for the gate of node=%s", node.id)
                self._starved = True
                return
            gate = NetworkAttachment(network_id=ingress.id, addresses=[address])
            batch.put(msgspec.structs.replace(node, attachments=[*node.attachments, gate]))

    # --- services and tasks -------------------------------------------------------------------------------------

    def _services(self, batch: Batch, ingress_id: str, addresses: Addresses) -> dict[str, Service]:
        """The services whose endpoint stands, with those allocated in this transaction."""
        known = {service.id: service for service in batch.view.all(Service)}
        done: dict[str, Service] = {}
        for service in known.values():
            wanted = nets.wanted_networks(service, ingress_id)
            if not ports.is_allocated(service) or not nets.has_virtual_ips(service, wanted):
                allocated = self._allocated(service, known, wanted, addresses)
                if allocated is None:
                    continue
                known[service.id] = service = allocated
                batch.put(service)
            if addresses.ready(wanted):
                done[service.id] = service
        return done

    def _allocated(
        self, service: Service, known: dict[str, Service], wanted: Collection[str], addresses: Addresses
    ) -> Service | None:
        """The service with its endpoint; None when something of it can't be had."""
        endpoint = ports.allocate(service, ports.ports_of(known.values(), but=service.id))
        if isinstance(endpoint, ports.Exhausted):
            log.error("no published port left service=%s protocol=%s", service.id, endpoint.protocol)
            return None
        if not addresses.ready(wanted):
            self._starved = True
            return None
        with_vips = nets.with_virtual_ips(endpoint, wanted, addresses)
        if isinstance(with_vips, nets.Exhausted):
            log.error("no virtual address left service=%s network=%s", service.id, with_vips.network)
            self._starved = True
            return None
        return msgspec.structs.replace(service, endpoint=with_vips)

    def _task(self, batch: Batch, task: Task, service: Service, ingress_id: str, addresses: Addresses) -> None:
        if task.desired_state > TaskState.RUNNING:
            attachments: list[NetworkAttachment] | nets.Exhausted = []  # it will never run
        else:
            attachments = nets.attach(nets.wanted_networks(service, ingress_id), addresses)
        if isinstance(attachments, nets.Exhausted):
            self._starved = True
            why = f"no available IPv4 addresses on network {attachments.network}"
            if task.status.err != why:
                status = msgspec.structs.replace(task.status, timestamp=batch.now, err=why)
                batch.put(msgspec.structs.replace(task, status=status))
            return
        status = msgspec.structs.replace(
            task.status, state=TaskState.PENDING, timestamp=batch.now, message=PENDING, err=""
        )
        batch.put(msgspec.structs.replace(task, status=status, endpoint=service.endpoint, networks=attachments))
