"""What nodes are told of networks: derived from the store, and kept in step with it service by service.

`NetworkTruth` holds one `OverlayService` for each service and network; a node is told of the networks that its tasks
are on, and of the ingress network as soon as anything is published. Values are shared between nodes, so the difference
between what a node has and what it should have is a comparison of identities.

Invariant: after `refresh`, `wanted` is a pure function of the view and of nothing that `needs` leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from api.types.dataplane import Overlay, OverlayGate, OverlayPool, OverlayPort, OverlayService, OverlayTask
from api.types.objects import Node, NodeState, Service, SwarmNetwork, Task, TaskState
from manager.labels import MESH
from manager.store.memory import Change
from manager.store.view import View

VXLAN_BYTES = 50
UNDERLAY_MTU = 1500
OPTION_MTU = "com.docker.network.driver.mtu"


@dataclass
class NodeNetworks:
    """What one node shall know."""

    networks: dict[str, Overlay] = field(default_factory=dict)
    services: dict[str, OverlayService] = field(default_factory=dict)


class Needs(NamedTuple):
    """What a node's networks are derived from: the truth's version, the node itself, the networks its tasks are on."""

    version: int
    node: Node | None
    networks: frozenset[str]


def underlay(node: Node) -> str:
    """Where the other nodes send a node's overlay packets."""
    advertised = node.manager_status.addr.rpartition(":")[0] if node.manager_status is not None else ""
    return advertised.strip("[]") or node.status.addr


class NetworkTruth:
    """All services on all networks, as the nodes shall know them."""

    def __init__(self) -> None:
        self.version = 0
        """Grows with every change of anything here."""
        self._services: dict[str, OverlayService] = {}
        self._by_network: dict[str, dict[str, OverlayService]] = {}
        self._known: dict[str, list[str]] = {}
        """Service id to the keys of its entries."""

    def refresh(self, view: View, changes: Iterable[Change] | None) -> None:
        """Take in what changed; None: everything may have."""
        if changes is None:
            dirty = {service.id for service in view.all(Service)} | {task.service_id for task in view.all(Task)}
            dirty |= set(self._known)
            self.version += 1
        else:
            dirty = set()
            for change in changes:
                dirty |= self._touched(view, change)
        for service_id in dirty:
            if service_id:
                self._derive(view, service_id)

    def _touched(self, view: View, change: Change) -> set[str]:
        if change.table == "services":
            return {change.id}
        if change.table == "tasks":
            old, new = change.old, change.new
            if not any(task is not None and task.networks for task in (old, new)):
                return set()
            if old is not None and new is not None and _as_seen(old) == _as_seen(new):
                return set()
            return {(new or old).service_id}
        if change.table == "networks" or _gates_of(change.old) != _gates_of(change.new):
            self.version += 1  # of these every node derives a value of its own
        if change.table == "nodes" and _node_as_seen(change.old) != _node_as_seen(change.new):
            return {task.service_id for task in view.tasks_on_node(change.id)}
        return set()

    def _derive(self, view: View, service_id: str) -> None:
        entries = entries_of(view, service_id)
        before = self._known.get(service_id, [])
        for key in before:
            if key not in entries:
                self._by_network[self._services.pop(key).network_id].pop(key)
                self.version += 1
        for key, entry in entries.items():
            if self._services.get(key) != entry:
                self._services[key] = entry
                self._by_network.setdefault(entry.network_id, {})[key] = entry
                self.version += 1
        if entries:
            self._known[service_id] = list(entries)
        else:
            self._known.pop(service_id, None)

    def needs(self, view: View, node_id: str) -> Needs:
        """All that what a node shall know depends on: as long as it is the same, so is that."""
        tasks = view.tasks_on_node(node_id)
        return Needs(
            version=self.version,
            node=view.get(Node, node_id),
            networks=frozenset(place.network_id for task in tasks if on_node(task) for place in task.networks),
        )

    def wanted(self, view: View, needs: Needs) -> NodeNetworks:
        """What a node shall know now."""
        result = NodeNetworks()
        node = needs.node
        if node is None or not underlay(node):
            return result
        for network in view.all(SwarmNetwork):
            services = self._by_network.get(network.id, {})
            published = network.spec.ingress and any(map(_is_published, services.values()))
            if network.id not in needs.networks and not published:
                continue
            result.networks[network.id] = overlay(network, node, view.all(Node))
            result.services |= services
        return result


def on_node(task: Task) -> bool:
    """Whether a task's container may exist on its node: from assignment until it has ended."""
    return task.status.state >= TaskState.ASSIGNED and not task.status.state.terminal


def _is_published(service: OverlayService) -> bool:
    return bool(service.ports)


def _as_seen(task: Task) -> object:
    return (task.node_id, on_node(task), _serving(task), task.networks, task.status.container_id, task.service_id)


def _node_as_seen(node: Node | None) -> object:
    return None if node is None else (underlay(node), node.status.state is NodeState.DOWN)


def _gates_of(node: Node | None) -> object:
    """What the other nodes are told of a node."""
    return (underlay(node), node.attachments) if node is not None and node.attachments else None


def _serving(task: Task) -> bool:
    return task.status.state is TaskState.RUNNING and task.desired_state <= TaskState.RUNNING


def entries_of(view: View, service_id: str) -> dict[str, OverlayService]:
    """A service as each of its networks sees it. A removed one stays while tasks of it are on nodes: without address,
    ports and names, so that packets of open connections still find their way."""
    service = view.get(Service, service_id)
    tasks = [task for task in view.tasks_of_service(service_id) if on_node(task) and task.networks]
    vips: dict[str, str] = {}
    aliases: dict[str, list[str]] = {}
    if service is not None and service.endpoint is not None:
        vips = {vip.network_id: vip.addr.partition("/")[0] for vip in service.endpoint.virtual_ips}
        for attachment in service.spec.task_template.networks:
            aliases[attachment.target] = list(attachment.aliases)
    network_ids = {*vips, *aliases, *(place.network_id for task in tasks for place in task.networks)}
    entries: dict[str, OverlayService] = {}
    for network_id in sorted(network_ids):
        network = view.get(SwarmNetwork, network_id)
        if network is None:
            continue
        entry = OverlayService(
            network_id=network_id,
            id=service_id,
            name=service.spec.name if service is not None else "",
            vip=vips.get(network_id, ""),
            aliases=aliases.get(network_id, []),
            tasks=_tasks(view, tasks, network_id, gone=service is None),
            ports=_ports(service) if service is not None and network.spec.ingress else [],
            local_only=service is not None and service.spec.labels.get(MESH) == "local",
        )
        entries[entry.key] = entry
    return entries


def _tasks(view: View, tasks: Sequence[Task], network_id: str, *, gone: bool) -> list[OverlayTask]:
    found: list[OverlayTask] = []
    for task in tasks:
        node = view.get(Node, task.node_id)
        if node is None:
            continue
        for place in task.networks:
            if place.network_id == network_id and place.addresses:
                found.append(
                    OverlayTask(
                        id=task.id,
                        name=task.name,
                        address=place.addresses[0].partition("/")[0],
                        node=underlay(node),
                        serving=not gone and _serving(task) and node.status.state is not NodeState.DOWN,
                        container_id=task.status.container_id,
                    )
                )
    return sorted(found, key=lambda task: task.address)


def _ports(service: Service) -> list[OverlayPort]:
    return [
        OverlayPort(protocol=port.protocol, published=port.published_port, target=port.target_port)
        for port in (service.endpoint.ports if service.endpoint is not None else [])
        if port.published_port
    ]


def overlay(network: SwarmNetwork, node: Node, nodes: Iterable[Node]) -> Overlay:
    """A network as this node sees it."""
    options = network.spec.driver_configuration.options
    return Overlay(
        id=network.id,
        name=network.spec.name,
        vni=network.vni,
        pools=[OverlayPool(subnet=pool.subnet, gateway=pool.gateway) for pool in network.pools],
        local=underlay(node),
        mtu=int(options.get(OPTION_MTU, UNDERLAY_MTU - VXLAN_BYTES)),
        internal=network.spec.internal,
        attachable=network.spec.attachable,
        ingress=network.spec.ingress,
        gate=_gate(network, node),
        gates=[
            OverlayGate(address=address.partition("/")[0], node=underlay(other))
            for other in sorted(nodes, key=lambda other: other.id)
            if other.id != node.id and underlay(other) and (address := _gate(network, other))
        ],
        options=options,
        labels=network.spec.labels,
        created_ns=network.meta.created_at,
    )


def _gate(network: SwarmNetwork, node: Node) -> str:
    return next((place.addresses[0] for place in node.attachments if place.network_id == network.id), "")


def network_difference(
    sent: NodeNetworks, now: NodeNetworks
) -> tuple[list[Overlay], list[str], list[OverlayService], list[str]]:
    """(networks to update, ids to remove, services to update, keys to remove)."""
    update = [network for key, network in now.networks.items() if sent.networks.get(key) != network]
    remove = [key for key in sent.networks if key not in now.networks]
    update_services = [
        service
        for key, service in now.services.items()
        if sent.services.get(key) is not service and sent.services.get(key) != service
    ]
    remove_services = [
        key for key, service in sent.services.items() if key not in now.services and service.network_id not in remove
    ]
    return update, remove, update_services, remove_services
