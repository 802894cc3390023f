"""Network endpoint shapes, shared by containers and networks (v1.24 sections 3.1 and 3.5)."""

from __future__ import annotations

import msgspec

from api.types.base import Api


class PortBinding(Api):
    host_ip: str = msgspec.field(name="HostIp", default="")
    host_port: str = ""


class EndpointIPAMConfig(Api, omit_defaults=True):
    ipv4_address: str = msgspec.field(name="IPv4Address", default="")
    ipv6_address: str = msgspec.field(name="IPv6Address", default="")
    link_local_ips: list[str] = msgspec.field(name="LinkLocalIPs", default_factory=list)


class EndpointSettings(Api):
    """Both what is wished (IPAMConfig, Links, Aliases) and what came of it."""

    ipam_config: EndpointIPAMConfig | None = None
    links: list[str] | None = None
    aliases: list[str] | None = None
    network_id: str = ""
    endpoint_id: str = ""
    gateway: str = ""
    ip_address: str = ""
    ip_prefix_len: int = 0
    ipv6_gateway: str = msgspec.field(name="IPv6Gateway", default="")
    global_ipv6_address: str = msgspec.field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = msgspec.field(name="GlobalIPv6PrefixLen", default=0)
    mac_address: str = ""
