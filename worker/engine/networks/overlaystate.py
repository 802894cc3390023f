"""What this host has been told of overlay networks, and what follows from it. Pure.

Invariant: names, peers and backends are functions of the networks and services held here; `apply` keeps them in step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from api.types.dataplane import Overlay, OverlayChange, OverlayService, OverlayTask

_SHORT_ID = 12


@dataclass
class Effect:
    """What an application changed."""

    networks: dict[str, Overlay] = field(default_factory=dict)
    """Made or changed, by id."""
    removed: dict[str, Overlay] = field(default_factory=dict)
    services: list[tuple[OverlayService | None, OverlayService | None]] = field(default_factory=list)
    """(before, after)"""

    @property
    def touched(self) -> set[str]:
        """Ids of networks of which anything changed, but for the removed ones."""
        ids = set(self.networks)
        for before, after in self.services:
            ids |= {entry.network_id for entry in (before, after) if entry is not None}
        return ids - set(self.removed)

    def __bool__(self) -> bool:
        return bool(self.networks or self.removed or self.services)


class OverlayNames:
    """Per network: what a name leads to, and what an address is called. Names are case-blind."""

    def __init__(self) -> None:
        self._forward: dict[tuple[str, str], dict[str, list[str]]] = {}
        """(network id, name) to addresses by who brought them."""
        self._backward: dict[tuple[str, str], str] = {}

    def add(self, service: OverlayService) -> None:
        for name, addresses in _names(service):
            self._forward.setdefault((service.network_id, name), {})[service.id] = addresses
        for address, name in _reverse(service):
            self._backward[service.network_id, address] = name

    def remove(self, service: OverlayService) -> None:
        for name, _ in _names(service):
            found = self._forward.get((service.network_id, name), {})
            found.pop(service.id, None)
            if not found:
                self._forward.pop((service.network_id, name), None)
        for address, _ in _reverse(service):
            self._backward.pop((service.network_id, address), None)

    def lookup(self, network_id: str, name: str) -> list[str] | None:
        """Addresses; [] for a name whose tasks don't run now; None for nobody's name."""
        found = self._forward.get((network_id, name.lower()))
        return None if found is None else [address for addresses in found.values() for address in addresses]

    def reverse(self, network_id: str, address: str) -> str | None:
        return self._backward.get((network_id, address))


def serving(service: OverlayService) -> list[str]:
    """Addresses of the tasks that take new connections."""
    return [task.address for task in service.tasks if task.serving]


def _names(service: OverlayService) -> Iterable[tuple[str, list[str]]]:
    if not service.name:
        return
    addresses = serving(service)
    own = [service.vip] if service.vip else addresses
    for name in dict.fromkeys(name.lower() for name in (service.name, *service.aliases)):
        yield name, own
    yield f"tasks.{service.name.lower()}", addresses
    for task in service.tasks:
        if task.serving:
            yield task.name.lower(), [task.address]
            if task.container_id:
                yield task.container_id[:_SHORT_ID], [task.address]


def _reverse(service: OverlayService) -> Iterable[tuple[str, str]]:
    if service.vip and service.name:
        yield service.vip, service.name
    for task in service.tasks:
        yield task.address, task.name


class OverlayState:
    """The networks, and the services on each."""

    def __init__(self) -> None:
        self.index = 0
        self.networks: dict[str, Overlay] = {}
        self.services: dict[str, OverlayService] = {}
        self.names = OverlayNames()
        self._by_network: dict[str, dict[str, OverlayService]] = {}

    def apply(self, change: OverlayChange) -> Effect:
        """Take a change in; services of a network that is not known here are left out."""
        effect = Effect()
        remove, remove_services = set(change.remove), set(change.remove_services)
        if change.complete:
            remove |= set(self.networks) - {network.id for network in change.update}
            remove_services |= set(self.services) - {service.key for service in change.update_services}
        for network_id in remove:
            network = self.networks.pop(network_id, None)
            if network is not None:
                effect.removed[network_id] = network
            remove_services |= set(self._by_network.get(network_id, {}))
        for network in change.update:
            if self.networks.get(network.id) != network:
                self.networks[network.id] = effect.networks[network.id] = network
        for key in remove_services:
            self._replace(effect, key, None)
        for service in change.update_services:
            if service.network_id in self.networks:
                self._replace(effect, service.key, service)
        self.index = change.index if change.complete else max(self.index, change.index)
        return effect

    def _replace(self, effect: Effect, key: str, after: OverlayService | None) -> None:
        before = self.services.get(key)
        if before == after:
            return
        effect.services.append((before, after))
        if before is not None:
            self.names.remove(before)
            del self.services[key]
            here = self._by_network[before.network_id]
            del here[key]
            if not here:
                del self._by_network[before.network_id]
        if after is not None:
            self.names.add(after)
            self.services[key] = after
            self._by_network.setdefault(after.network_id, {})[key] = after

    def on(self, network_id: str) -> Iterable[OverlayService]:
        """The services of a network."""
        return self._by_network.get(network_id, {}).values()

    def peers(self, network_id: str) -> dict[str, str]:
        """Who is on the network elsewhere: address to node."""
        network = self.networks.get(network_id)
        if network is None:
            return {}
        peers = {
            task.address: task.node
            for service in self.on(network_id)
            for task in service.tasks
            if task.node and task.node != network.local
        }
        return peers | {gate.address: gate.node for gate in network.gates}

    def backends(self, network_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Virtual address to who serves it, on all of the networks."""
        return {
            service.vip: tuple(serving(service))
            for network_id in network_ids
            for service in self.on(network_id)
            if service.vip
        }

    def assigned(self, network_id: str, name: str, address: str) -> OverlayTask | None:
        """The task of this host that may take this address."""
        network = self.networks.get(network_id)
        for service in self.on(network_id):
            for task in service.tasks:
                if network is not None and (task.name, task.address, task.node) == (name, address, network.local):
                    return task
        return None

    def ingress(self) -> Overlay | None:
        return next((network for network in self.networks.values() if network.ingress), None)


def changed_backends(
    effect: Effect, network_ids: Iterable[str]
) -> tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]:
    """(before, after) of the virtual addresses that an effect touched on these networks."""
    wanted = set(network_ids)
    before: dict[str, tuple[str, ...]] = {}
    after: dict[str, tuple[str, ...]] = {}
    for old, new in effect.services:
        if old is not None and old.vip and old.network_id in wanted:
            before[old.vip] = tuple(serving(old))
        if new is not None and new.vip and new.network_id in wanted:
            after[new.vip] = tuple(serving(new))
    return before, after
