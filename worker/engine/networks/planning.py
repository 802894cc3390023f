"""From a container's request to the record of its sandbox, and from that record to what others see of it.

Pure but for the allocation of addresses in the catalog's subnets, which is undone on failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from api.errors import Conflict, Forbidden, InvalidArgument
from api.types.endpoint import EndpointIPAMConfig, EndpointSettings, PortBinding
from api.wire.ipam import mac_of, parse_address
from base.ids import hex_id, short_id
from worker.engine.networks import files, macvlan, ports, vxlan
from worker.engine.networks.catalog import Catalog
from worker.engine.networks.links import EndpointPlan
from worker.engine.networks.records import (
    GATE,
    GATEWAY_NETWORK,
    OPTION_MTU,
    EndpointRecord,
    NetworkRecord,
    PublishedPort,
    SandboxRecord,
)
from worker.engine.parts import NetworkRequest, Sandbox

HOST, NONE, CONTAINER, BRIDGE = "host", "none", "container", "bridge"
_MAC_BYTES = 6


def kind_of(mode: str) -> str:
    """host, none, container or bridge (any bridge network)."""
    if mode in (HOST, NONE):
        return mode
    return CONTAINER if mode.startswith("container:") else BRIDGE


def wanted_networks(request: NetworkRequest, catalog: Catalog) -> list[NetworkRecord]:
    """The networks to join, the mode's own first. Raises NotFound, Conflict (host or none with others)."""
    kind = kind_of(request.mode)
    if kind == CONTAINER:
        return []
    primary = catalog.resolve(request.mode or "bridge")
    others = {record.id: record for record in map(catalog.resolve, sorted(request.endpoints)) if record != primary}
    if any(not record.joinable for record in others.values()) or (others and not primary.joinable):
        raise Conflict("container cannot be connected to the networks host or none together with others")
    found = [primary, *others.values()]
    gateway = catalog.named(GATEWAY_NETWORK)
    if gateway is not None and any(record.is_overlay and not record.internal for record in found):
        found.append(gateway)
    return found


def settings_for(record: NetworkRecord, request: NetworkRequest) -> EndpointSettings:
    """What the request wishes on this network, under its name or id."""
    for key in (record.name, record.id, "default" if record.name == "bridge" else ""):
        if key in request.endpoints:
            return request.endpoints[key]
    return EndpointSettings()


def check_settings(record: NetworkRecord, settings: EndpointSettings, catalog: Catalog) -> IPv4Address | None:
    """The static address wished, if any. Raises InvalidArgument with Docker's texts."""
    ipam = settings.ipam_config or EndpointIPAMConfig()
    if ipam.ipv6_address or ipam.link_local_ips:
        raise InvalidArgument("IPAMConfig: IPv6 and link-local addresses are not supported")
    if not ipam.ipv4_address:
        return None
    if record.predefined:
        raise InvalidArgument("user specified IP address is supported on user defined networks only")
    address = parse_address("IPv4Address", ipam.ipv4_address)
    if address not in catalog.subnets[record.id].network:
        raise InvalidArgument(f"Invalid address {address}: It does not belong to any of this network's subnets")
    return address


def check_mac(text: str) -> str:
    """A unicast hardware address in lower case; raises InvalidArgument."""
    try:
        octets = [int(part, 16) for part in text.replace("-", ":").split(":") if len(part) == 2]
    except ValueError:
        octets = []
    if len(octets) != _MAC_BYTES or octets[0] & 1:
        raise InvalidArgument(f"{text} is not a valid mac address")
    return ":".join(f"{octet:02x}" for octet in octets)


def check(request: NetworkRequest, catalog: Catalog, default_ip: str) -> list[NetworkRecord]:
    """All that can be said of a request before anything is allocated; answers the networks to join."""
    networks = wanted_networks(request, catalog)
    for record in networks:
        if record.joinable and not record.is_overlay:
            check_settings(record, settings_for(record, request), catalog)
    files.check_dns(request.dns)
    for entry in request.extra_hosts:
        files.parse_extra_host(entry, "0.0.0.0")
    if request.mac_address:
        check_mac(request.mac_address)
    ports.wishes(request.ports, request.exposed, request.publish_all, default_ip)
    for key in request.exposed:
        ports.normal(key)
    return networks


def endpoint(
    record: NetworkRecord,
    settings: EndpointSettings,
    catalog: Catalog,
    *,
    container_id: str,
    container_name: str,
    hostname: str,
    interface: str,
    mac: str = "",
) -> EndpointRecord:
    """Allocate one endpoint. Raises Conflict (address in use), InvalidArgument, Unavailable."""
    identity = hex_id()
    if record.is_overlay:
        return overlay_endpoint(record, settings, identity, container_name, container_id, interface)
    if not record.joinable:
        return EndpointRecord(id=identity, network_id=record.id, network_name=record.name)
    wished = check_settings(record, settings, catalog)
    subnet = catalog.subnets[record.id]
    address = subnet.allocate(wished)
    aliases: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    if record.name != GATEWAY_NETWORK:
        own = (container_name.lstrip("/"), short_id(container_id))
        # What dockerd shows, too: a container is also called by its short id and its host name, where names count.
        extra = () if record.predefined else (short_id(container_id), hostname)
        aliases = tuple(dict.fromkeys(name for name in (*(settings.aliases or ()), *extra) if name))
    return EndpointRecord(
        id=identity,
        network_id=record.id,
        network_name=record.name,
        address=str(address),
        prefix_len=subnet.network.prefixlen,
        gateway="" if record.internal or record.parent == macvlan.lone(record.id) else str(subnet.gateway),
        mac=check_mac(mac) if mac else mac_of(address),
        interface=interface,
        link="" if record.parent else f"sv{identity[:12]}",
        parent=record.parent,
        names=tuple(dict.fromkeys(name for name in (*own, *aliases) if name)),
        aliases=aliases,
        links=tuple(settings.links or ()),
        wished_address=str(wished or ""),
    )


def overlay_endpoint(
    record: NetworkRecord,
    settings: EndpointSettings,
    identity: str,
    container_name: str,
    container_id: str,
    interface: str,
) -> EndpointRecord:
    """At the address that the managers gave. Raises Forbidden when there is none: only tasks have one."""
    ipam = settings.ipam_config or EndpointIPAMConfig()
    if not ipam.ipv4_address:
        raise not_attachable(record)
    address = parse_address("IPv4Address", ipam.ipv4_address)
    own = next((pool for pool in record.pools if address in IPv4Network(pool[0])), None)
    if own is None:
        raise not_attachable(record)
    return EndpointRecord(
        id=identity,
        network_id=record.id,
        network_name=record.name,
        address=str(address),
        prefix_len=IPv4Network(own[0]).prefixlen,
        mac=mac_of(address),
        interface=interface,
        link=f"sv{identity[:12]}",
        names=(container_name.lstrip("/"), short_id(container_id)),
        wished_address=str(address),
        overlay=True,
        routes=tuple((subnet, own[1]) for subnet, _ in record.pools if subnet != own[0]),
    )


def not_attachable(record: NetworkRecord) -> Forbidden:
    return Forbidden(f"Could not attach to network {record.name}: network {record.name} not manually attachable")


def sandbox(
    request: NetworkRequest, networks: Sequence[NetworkRecord], catalog: Catalog, directory: Path, files_of: str
) -> SandboxRecord:
    """The record of the sandbox to build, without ports. On failure no address stays allocated."""
    kind = kind_of(request.mode)
    identity = hex_id()
    if request.join is not None and kind == CONTAINER:
        netns = str(request.join)
    else:
        netns = "" if kind in (HOST, CONTAINER) else str(directory / identity[:12])
    made: list[EndpointRecord] = []
    try:
        for number, record in enumerate(networks):
            made.append(
                endpoint(
                    record,
                    settings_for(record, request),
                    catalog,
                    container_id=request.container_id,
                    container_name=request.container_name,
                    hostname=request.hostname,
                    interface=f"eth{number}",
                    mac=request.mac_address if number == 0 else "",
                )
            )
    except BaseException:
        release(made, catalog)
        raise
    return SandboxRecord(
        id=identity,
        container_id=request.container_id,
        container_name=request.container_name.lstrip("/"),
        mode=kind,
        netns=netns,
        owned=kind in (BRIDGE, NONE),
        directory=str(request.directory),
        hostname=request.hostname,
        domainname=request.domainname,
        extra_hosts=tuple(request.extra_hosts),
        dns=tuple(request.dns),
        dns_search=tuple(request.dns_search),
        dns_options=tuple(request.dns_options),
        endpoints=tuple(made),
        exposed=tuple(dict.fromkeys(map(ports.normal, (*request.exposed, *request.ports)))),
        embedded_dns=needs_dns(made, catalog) and request.container_id != GATE,
        files_of=files_of,
    )


def needs_dns(endpoints: Iterable[EndpointRecord], catalog: Catalog) -> bool:
    """Whether the embedded DNS serves this sandbox: it is on a network of the user's."""
    return any(not catalog.networks[e.network_id].predefined for e in endpoints if e.network_id in catalog.networks)


def release(endpoints: Iterable[EndpointRecord], catalog: Catalog) -> None:
    """Give the addresses back; idempotent."""
    for made in endpoints:
        if made.address and made.network_id in catalog.subnets:
            catalog.subnets[made.network_id].release(IPv4Address(made.address))


def gateway_endpoint(endpoints: Iterable[EndpointRecord]) -> EndpointRecord | None:
    """The endpoint of the default route and of published ports."""
    return next((made for made in endpoints if made.gateway), None)


def publishing_endpoint(endpoints: Iterable[EndpointRecord]) -> EndpointRecord | None:
    """The endpoint that published ports lead to: packets of the others don't pass this host."""
    return gateway_endpoint(made for made in endpoints if not made.parent)


def plans(record: SandboxRecord, catalog: Catalog, overlays: Path) -> list[EndpointPlan]:
    """The links to make for a sandbox. `overlays`: where the namespaces of overlay networks are."""
    first = gateway_endpoint(record.endpoints)
    return [
        EndpointPlan(
            link=made.link,
            bridge=vxlan.BRIDGE if made.overlay else catalog.networks[made.network_id].bridge,
            interface=made.interface,
            mac=made.mac,
            address=made.address,
            prefix_len=made.prefix_len,
            gateway=made.gateway if made is first else "",
            mtu=_mtu(catalog.networks[made.network_id]),
            within=overlays / made.network_id if made.overlay else None,
            routes=made.routes,
            parent=made.parent,
            mode=macvlan.mode(catalog.networks[made.network_id].options) if made.parent else 0,
        )
        for made in record.endpoints
        if made.link or made.parent
    ]


def _mtu(record: NetworkRecord) -> int:
    """0: that of the parent."""
    return 0 if record.parent and OPTION_MTU not in record.options else record.mtu


def next_interface(record: SandboxRecord) -> str:
    """The lowest free ethN."""
    used = {made.interface for made in record.endpoints}
    return next(f"eth{number}" for number in range(len(used) + 1) if f"eth{number}" not in used)


def endpoint_view(made: EndpointRecord) -> EndpointSettings:
    """As realised."""
    return EndpointSettings(
        ipam_config=EndpointIPAMConfig(ipv4_address=made.wished_address) if made.wished_address else None,
        links=list(made.links) or None,
        aliases=list(made.aliases) or None,
        network_id=made.network_id,
        endpoint_id=made.id,
        gateway=made.gateway,
        ip_address=made.address,
        ip_prefix_len=made.prefix_len,
        mac_address=made.mac,
    )


def ports_view(exposed: Iterable[str], published: Iterable[PublishedPort]) -> dict[str, list[PortBinding] | None]:
    """`NetworkSettings.Ports`: exposed ports map to None, published ones to their bindings."""
    view: dict[str, list[PortBinding] | None] = dict.fromkeys(exposed)
    for port in published:
        key = f"{port.container_port}/{port.protocol}"
        view[key] = [*(view.get(key) or ()), PortBinding(host_ip=port.host_ip, host_port=str(port.host_port))]
    return view


def view(record: SandboxRecord) -> Sandbox:
    """What containers see of their sandbox."""
    directory = Path(record.files_of or record.directory)
    # Neither do ports of a container whose networks publish none show.
    hidden = record.mode == HOST or (bool(record.endpoints) and all(made.parent for made in record.endpoints))
    return Sandbox(
        netns=Path(record.netns) if record.netns else None,
        endpoints={
            made.network_name: endpoint_view(made)
            for made in record.endpoints
            if made.network_name != GATEWAY_NETWORK or len(record.endpoints) == 1
        },
        ports=ports_view(() if hidden else record.exposed, record.published),
        hosts=directory / "hosts",
        hostname=directory / "hostname",
        resolv_conf=directory / "resolv.conf",
        sandbox_id=record.id,
    )


def refuse_shared(record: SandboxRecord) -> None:
    """Raises Forbidden when a container's namespace is not a bridge one of its own."""
    if record.mode == HOST:
        raise Forbidden("container cannot be disconnected from host network or connected to host network")
    if record.mode == CONTAINER:
        raise Forbidden(
            "container sharing network namespace with another container or host cannot be connected "
            "to any other network"
        )
    if record.mode == NONE:
        raise Forbidden(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )
