"""What the engine remembers of networks and of containers' places in them. Durable before anything is built.

A sandbox's record names all that was made for it in the kernel (namespace, links, ports): whoever holds the record
can take everything away again.
"""

from __future__ import annotations

from api.types.base import Record

NETWORKS = "networks"
SANDBOXES = "sandboxes"

OVERLAYS = "overlays"
OVERLAY_SERVICES = "overlay_services"

OVERLAY = "overlay"
GATEWAY_NETWORK = "docker_gwbridge"
"""The bridge by which containers on overlays reach the world, and the routing mesh reaches them. Nobody has a name on
it: who shares it is nobody's neighbour."""
GATE = "ingress-sbox"
"""The container id under which the gate of the routing mesh has its sandbox."""

OPTION_NAME = "com.docker.network.bridge.name"
OPTION_DEFAULT = "com.docker.network.bridge.default_bridge"
OPTION_ICC = "com.docker.network.bridge.enable_icc"
OPTION_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
OPTION_HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
OPTION_MTU = "com.docker.network.driver.mtu"


class NetworkRecord(Record, kw_only=True, frozen=True):
    id: str
    name: str
    driver: str
    created_ns: int = 0
    internal: bool = False
    attachable: bool = False
    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    auxiliary: dict[str, str] = {}
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None
    gateway_given: bool = False
    """The user named the gateway: shown on inspect also on the default bridge."""
    bridge: str = ""
    """Name of the bridge link; empty for the drivers that have none."""
    parent: str = ""
    """Of a macvlan network: the host's link that its containers' links are on."""
    parent_made: bool = False
    """That link is ours, and goes with the network."""
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    pools: tuple[tuple[str, str], ...] = ()
    """(subnet, gateway) of an overlay, whose addresses are the managers' to give."""

    @property
    def is_overlay(self) -> bool:
        return self.driver == OVERLAY

    @property
    def joinable(self) -> bool:
        """Containers have an address of their own on it."""
        return bool(self.bridge or self.parent) or self.is_overlay

    def option(self, name: str, default: str) -> str:
        """A driver option's text."""
        return self.options.get(name, default)

    @property
    def predefined(self) -> bool:
        return self.name in ("bridge", "host", "none")

    @property
    def icc(self) -> bool:
        """Containers of this network may talk to one another."""
        return self.option(OPTION_ICC, "true") in ("true", "1")

    @property
    def masquerade(self) -> bool:
        return self.option(OPTION_MASQUERADE, "true") in ("true", "1")

    @property
    def mtu(self) -> int:
        return int(self.option(OPTION_MTU, "1500"))


class EndpointRecord(Record, kw_only=True, frozen=True):
    """One container on one network."""

    id: str
    network_id: str
    network_name: str
    address: str = ""
    prefix_len: int = 0
    gateway: str = ""
    mac: str = ""
    interface: str = ""
    """Inside: eth0, eth1 ..."""
    link: str = ""
    """The host's end of the veth pair."""
    parent: str = ""
    """In place of a pair: the host's link that the container's own is on (macvlan)."""
    names: tuple[str, ...] = ()
    """What other containers on the network may call it: container name, short id, aliases."""
    aliases: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    """`container:alias`, as asked for."""
    wished_address: str = ""
    overlay: bool = False
    """The host's end of the pair is in the network's own namespace."""
    routes: tuple[tuple[str, str], ...] = ()
    """(subnet, gateway) of the network's other subnets."""


class PublishedPort(Record, kw_only=True, frozen=True):
    """A port of the host that leads to a container's."""

    protocol: str
    host_ip: str
    host_port: int
    container_ip: str
    container_port: int


class SandboxRecord(Record, kw_only=True, frozen=True):
    """A running container's place in the network."""

    id: str
    container_id: str
    container_name: str
    mode: str
    """bridge (any bridge network), host, none or container."""
    netns: str = ""
    """Path; empty shares the host's."""
    netns_inode: int = 0
    """Tells the namespace apart while the machine runs."""
    owned: bool = True
    """False: the namespace is another container's."""
    directory: str
    hostname: str = ""
    domainname: str = ""
    extra_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    endpoints: tuple[EndpointRecord, ...] = ()
    published: tuple[PublishedPort, ...] = ()
    exposed: tuple[str, ...] = ()
    embedded_dns: bool = False
    files_of: str = ""
    """Directory whose hosts, hostname and resolv.conf it shares; empty: its own."""
