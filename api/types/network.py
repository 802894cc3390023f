"""Network requests and responses (v1.24 section 3.5). Null stands for absent, as clients send it."""

from __future__ import annotations

import msgspec

from api.types.base import Api
from api.types.endpoint import EndpointSettings


class IPAMConfig(Api, kw_only=True, omit_defaults=True):
    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None
    aux_address: dict[str, str] | None = None
    """The name v1.24's text gives to the same."""


class IPAM(Api, kw_only=True):
    driver: str | None = "default"
    options: dict[str, str] | None = None
    config: list[IPAMConfig] | None = msgspec.field(default_factory=list)


class NetworkCreate(Api, kw_only=True):
    """Body of `POST /networks/create`."""

    name: str = ""
    check_duplicate: bool | None = False
    driver: str | None = "bridge"
    internal: bool | None = False
    attachable: bool | None = False
    ingress: bool | None = False
    config_only: bool | None = False
    scope: str | None = ""
    ipam: IPAM | None = None
    enable_ipv6: bool | None = msgspec.field(name="EnableIPv6", default=False)
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class NetworkCreated(Api, kw_only=True):
    id: str = msgspec.field(name="Id")
    warning: str = ""


class NetworkContainer(Api, kw_only=True):
    """One container on a network, as inspect shows it."""

    name: str
    endpoint_id: str
    mac_address: str
    ipv4_address: str = msgspec.field(name="IPv4Address")
    """With the prefix length."""
    ipv6_address: str = msgspec.field(name="IPv6Address", default="")


class Network(Api, kw_only=True):
    name: str
    id: str = msgspec.field(name="Id")
    created: str
    scope: str
    driver: str
    enable_ipv6: bool = msgspec.field(name="EnableIPv6", default=False)
    ipam: IPAM
    internal: bool
    attachable: bool
    containers: dict[str, NetworkContainer]
    options: dict[str, str]
    labels: dict[str, str]


class NetworkConnect(Api, kw_only=True):
    """Body of `POST /networks/{id}/connect`."""

    container: str = ""
    endpoint_config: EndpointSettings | None = None


class NetworkDisconnect(Api, kw_only=True):
    """Body of `POST /networks/{id}/disconnect`."""

    container: str = ""
    force: bool = False
