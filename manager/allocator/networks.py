"""Network ids, pools and addresses of the swarm. Pure.

Nothing is remembered here: what is in use is read from the objects that use it. A network holds its pools, a service
its virtual addresses, a task its addresses while it may run, a node its gate's; so an address is free again in the
moment its owner is gone, and none can leak.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import chain

import msgspec

from api.errors import ShoalError
from api.types.objects import Endpoint, NetworkAttachment, Node, Service, SwarmNetwork, Task, VirtualIP
from api.types.swarm import Driver, IPAMOptions, IPAMPool, NetworkAttachmentConfig, NetworkSpec
from api.wire.ipam import AddressPools, choose_subnet, make_subnet

VNI_MIN, VNI_MAX = 256, 2**24 - 1
POOLS = AddressPools(((IPv4Network("10.0.0.0/8"), 24),))
"""Where networks without a subnet get theirs."""
INGRESS = NetworkSpec(
    name="ingress",
    labels={"com.docker.swarm.internal": "true"},
    driver_configuration=Driver(name="overlay"),
    ingress=True,
    ipam_options=IPAMOptions(configs=[IPAMPool(subnet="10.255.0.0/16", gateway="10.255.0.1")]),
)


@dataclass(frozen=True)
class Exhausted:
    """No address is left on this network."""

    network: str


def allocate_network(
    network: SwarmNetwork, others: Iterable[SwarmNetwork], nodes: Iterable[Node], last_vni: int = 0
) -> SwarmNetwork | ShoalError:
    """The network with its id on the wire and its pools; why it can't have them otherwise.

    Args:
        nodes: pools that nobody asked for keep clear of the nodes' own addresses.
        last_vni: the id given out last. The next one is higher while there are any: hosts may still be taking the
            network down that had a lower one.
    """
    others = list(others)
    taken = [IPv4Network(pool.subnet) for other in others for pool in other.pools]
    reserved = [IPv4Network(f"{node.status.addr}/24", strict=False) for node in nodes if _is_ipv4(node.status.addr)]
    pools: list[IPAMPool] = []
    try:
        for wish in network.spec.ipam_options.configs or [IPAMPool()]:
            chosen = wish.subnet or str(choose_subnet(POOLS, [*taken, *reserved]))
            subnet = make_subnet(chosen, wish.gateway, wish.range, wish.auxiliary)
            taken.append(subnet.network)
            pools.append(msgspec.structs.replace(wish, subnet=str(subnet.network), gateway=str(subnet.gateway)))
    except ShoalError as error:
        return error
    used = {other.vni for other in others}
    numbers = chain(range(max(VNI_MIN, last_vni + 1), VNI_MAX), range(VNI_MIN, last_vni + 1))
    vni = next(number for number in numbers if number not in used)
    return msgspec.structs.replace(network, vni=vni, pools=pools)


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


def holds_addresses(task: Task) -> bool:
    """Whether a task's addresses are its own: from allocation until it has ended."""
    return bool(task.networks) and not task.status.state.terminal


class Addresses:
    """What is in use on each network, at one state of the store. Grows by what is taken here."""

    def __init__(
        self,
        networks: Iterable[SwarmNetwork],
        services: Iterable[Service],
        tasks: Iterable[Task],
        nodes: Iterable[Node],
        last: dict[str, int] | None = None,
    ) -> None:
        """`last`: per network, the address taken last, as a number. The next search begins behind it, so that an
        address rests for as long as there are others; kept and changed by the caller's leave."""
        self._networks = {network.id: network for network in networks if network.allocated}
        self._last = last if last is not None else {}
        self._used: dict[str, set[str]] = {network_id: set() for network_id in self._networks}
        for network in self._networks.values():
            for pool in network.pools:
                self._used[network.id] |= {pool.gateway, *pool.auxiliary.values()}
        for service in services:
            for vip in service.endpoint.virtual_ips if service.endpoint is not None else ():
                self._use(vip.network_id, vip.addr)
        for task in tasks:
            if holds_addresses(task):
                self._use_all(task.networks)
        for node in nodes:
            self._use_all(node.attachments)

    def _use(self, network_id: str, address: str) -> None:
        self._used.setdefault(network_id, set()).add(address.partition("/")[0])

    def _use_all(self, attachments: Iterable[NetworkAttachment]) -> None:
        for attachment in attachments:
            for address in attachment.addresses:
                self._use(attachment.network_id, address)

    def ready(self, network_ids: Iterable[str]) -> bool:
        """Whether all of the networks have their pools."""
        return all(network_id in self._networks for network_id in network_ids)

    def take(self, network_id: str) -> str | Exhausted:
        """A free address with its prefix length; in use from now on."""
        network = self._networks[network_id]
        used = self._used[network_id]
        for number, prefix in _numbers(network.pools, self._last.get(network_id, 0)):
            address = str(IPv4Address(number))
            if address not in used:
                used.add(address)
                self._last[network_id] = number
                return f"{address}/{prefix}"
        return Exhausted(network.spec.name)


def _numbers(pools: Sequence[IPAMPool], last: int) -> Iterator[tuple[int, int]]:
    """(address, prefix length) of all that may be given out, those behind `last` first."""
    spans: list[tuple[int, int, int]] = []
    for pool in pools:
        network = IPv4Network(pool.subnet)
        within = IPv4Network(pool.range) if pool.range else network
        first = max(int(within.network_address), int(network.network_address) + 1)
        final = min(int(within.broadcast_address), int(network.broadcast_address) - 1)
        spans.append((first, final, network.prefixlen))
    for first, final, prefix in spans:
        for number in range(max(first, last + 1), final + 1):
            yield number, prefix
    for first, final, prefix in spans:
        for number in range(first, min(final, last) + 1):
            yield number, prefix


def wanted_networks(service: Service, ingress_id: str) -> dict[str, NetworkAttachmentConfig]:
    """The networks that a service's tasks are on, by id; the ingress network first if it publishes ports."""
    wanted: dict[str, NetworkAttachmentConfig] = {}
    endpoint = service.spec.endpoint_spec
    if endpoint is not None and endpoint.ports and ingress_id:
        wanted[ingress_id] = NetworkAttachmentConfig(target=ingress_id)
    for attachment in service.spec.task_template.networks:
        wanted.setdefault(attachment.target, attachment)
    return wanted


def has_virtual_ips(service: Service, network_ids: Iterable[str]) -> bool:
    """Whether the endpoint's virtual addresses are on just these networks."""
    endpoint = service.endpoint
    if endpoint is None:
        return False
    wanted = set(network_ids) if endpoint.mode == "vip" else set()
    return {vip.network_id for vip in endpoint.virtual_ips} == wanted


def with_virtual_ips(endpoint: Endpoint, network_ids: Iterable[str], addresses: Addresses) -> Endpoint | Exhausted:
    """The endpoint with one virtual address on each network; those it had stay. None in dnsrr mode."""
    if endpoint.mode != "vip":
        return msgspec.structs.replace(endpoint, virtual_ips=[])
    had = {vip.network_id: vip for vip in endpoint.virtual_ips}
    vips: list[VirtualIP] = []
    for network_id in network_ids:
        known = had.get(network_id)
        if known is None:
            address = addresses.take(network_id)
            if isinstance(address, Exhausted):
                return address
            known = VirtualIP(network_id=network_id, addr=address)
        vips.append(known)
    return msgspec.structs.replace(endpoint, virtual_ips=vips)


def attach(
    networks: Mapping[str, NetworkAttachmentConfig], addresses: Addresses
) -> list[NetworkAttachment] | Exhausted:
    """A task's place on each network."""
    attachments: list[NetworkAttachment] = []
    for network_id, config in networks.items():
        address = addresses.take(network_id)
        if isinstance(address, Exhausted):
            return address
        attachments.append(NetworkAttachment(network_id=network_id, addresses=[address], aliases=list(config.aliases)))
    return attachments
