"""Which networks there are: names, subnets, rules for creating and removing, and what the API shows of them.

Holds no kernel state and does no I/O: the controller writes what these functions decide.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Network

from api.errors import Conflict, Forbidden, InvalidArgument, NotFound, NotSupported
from api.types.network import IPAM, IPAMConfig, Network, NetworkContainer, NetworkCreate
from api.wire.ipam import AddressPools, Subnet, choose_subnet, make_subnet, parse_network
from base.clock import rfc3339nano
from worker.engine.networks import macvlan
from worker.engine.networks import records as r
from worker.engine.networks.links import INTERFACE_NAME_MAX
from worker.engine.networks.records import NetworkRecord, SandboxRecord

PREDEFINED = ("bridge", "host", "none")
FILTERS = ("driver", "id", "label", "name", "type", "scope", "dangling")
_MTU_RANGE = range(68, 65536)


class Catalog:
    """The networks by id, with their subnets."""

    def __init__(self) -> None:
        self.networks: dict[str, NetworkRecord] = {}
        self.subnets: dict[str, Subnet] = {}

    def add(self, record: NetworkRecord) -> None:
        """Take a record in; its subnet starts with nothing allocated."""
        self.networks[record.id] = record
        if record.subnet:
            self.subnets[record.id] = make_subnet(record.subnet, record.gateway, record.ip_range, record.auxiliary)

    def drop(self, network_id: str) -> None:
        self.networks.pop(network_id, None)
        self.subnets.pop(network_id, None)

    def resolve(self, ref: str) -> NetworkRecord:
        """By id, name, or unique prefix of an id. Raises NotFound, InvalidArgument (ambiguous)."""
        ref = "bridge" if ref == "default" else ref
        if ref in self.networks:
            return self.networks[ref]
        named = [record for record in self.networks.values() if record.name == ref]
        found = named or [record for record in self.networks.values() if ref and record.id.startswith(ref)]
        if not found:
            raise NotFound(f"network {ref} not found")
        if len(found) > 1:
            kind = "name" if named else "ID prefix"
            raise InvalidArgument(f"network {ref} is ambiguous ({len(found)} matches found on {kind})")
        return found[0]

    def named(self, name: str) -> NetworkRecord | None:
        return next((record for record in self.networks.values() if record.name == name), None)

    def bridges(self) -> list[NetworkRecord]:
        """All networks that have a bridge link."""
        return [record for record in self.networks.values() if record.bridge]

    def with_links(self) -> list[NetworkRecord]:
        """All networks that have a link of the host."""
        return [record for record in self.networks.values() if record.bridge or record.parent]

    def taken(self, routes: Iterable[tuple[str, IPv4Network]]) -> list[IPv4Network]:
        """Subnets a new network must not overlap: ours, and where the host's other routes lead."""
        own = {record.bridge for record in self.bridges()}
        return [subnet.network for subnet in self.subnets.values()] + [
            network for interface, network in routes if interface not in own
        ]

    def plan(
        self,
        body: NetworkCreate,
        network_id: str,
        now_ns: int,
        pools: AddressPools,
        routes: Iterable[tuple[str, IPv4Network]],
        present: Collection[str] = (),
    ) -> NetworkRecord:
        """The record of a network to create. Raises as `POST /networks/create` answers (v1.24 "Create a network").

        `present`: those of `macvlan.candidates` that the host has.
        """
        driver = body.driver or "bridge"
        self._check_identity(body, driver)
        options = dict(body.options or {})
        _check_options(options)
        parent = None
        if driver == macvlan.DRIVER:
            parent = macvlan.parent_of(options, network_id, present, self.networks.values())
        bridge = "" if parent is not None else options.get(r.OPTION_NAME) or f"br-{network_id[:12]}"
        if bridge and any(bridge == record.bridge for record in self.bridges()):
            raise Conflict(f"bridge name {bridge} is already used by another network")
        ipam = body.ipam or IPAM()
        config = _check_ipam(ipam)
        if config.subnet:
            given = parse_network("Subnet", config.subnet)
            if any(given.overlaps(subnet.network) for subnet in self.subnets.values()):
                raise Forbidden("Pool overlaps with other one on this address space")
        else:
            given = choose_subnet(pools, self.taken(routes))
        auxiliary = config.auxiliary_addresses or config.aux_address or {}
        subnet = make_subnet(str(given), config.gateway, config.ip_range, auxiliary)
        return NetworkRecord(
            id=network_id,
            name=body.name,
            driver=driver,
            created_ns=now_ns,
            internal=bool(body.internal),
            attachable=bool(body.attachable),
            subnet=str(subnet.network),
            gateway=str(subnet.gateway),
            ip_range=config.ip_range,
            auxiliary=dict(auxiliary),
            ipam_options=ipam.options,
            gateway_given=bool(config.gateway),
            bridge=bridge,
            parent=parent.link if parent is not None else "",
            parent_made=parent is not None and parent.made,
            options=options,
            labels=dict(body.labels or {}),
        )

    def _check_identity(self, body: NetworkCreate, driver: str) -> None:
        if not body.name.strip():
            raise InvalidArgument("invalid name: name is empty")
        if body.name in (*PREDEFINED, "default"):
            raise Forbidden(f"operation is not permitted on predefined {body.name} network")
        if driver in ("host", "null"):
            raise Forbidden(f'only one instance of "{driver}" network is allowed')
        if driver not in ("bridge", macvlan.DRIVER):
            raise NotFound(f'could not find plugin {driver} in v1 plugin registry: plugin "{driver}" not found')
        if body.ingress or body.config_only or body.scope not in ("", "local", None):
            raise NotSupported("networks of swarm scope, ingress and config-only networks are not supported here")
        if body.enable_ipv6:
            raise NotSupported("EnableIPv6: IPv6 networks are not supported")
        if body.check_duplicate and self.named(body.name) is not None:
            raise Conflict(f"network with name {body.name} already exists")

    def check_removal(self, record: NetworkRecord, *, in_use: bool) -> None:
        """Raises Forbidden for a predefined network or one in use."""
        if record.predefined or record.is_overlay:
            raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed")
        if in_use:
            raise Forbidden(f"error while removing network: network {record.name} id {record.id} has active endpoints")


def _check_options(options: Mapping[str, str]) -> None:
    name = options.get(r.OPTION_NAME, "")
    if len(name.encode()) > INTERFACE_NAME_MAX or "/" in name or name in (".", "..") or any(map(str.isspace, name)):
        raise InvalidArgument(f"invalid bridge name {name!r}: at most {INTERFACE_NAME_MAX} bytes, no slash or space")
    if '"' in name:
        raise InvalidArgument(f"invalid bridge name {name!r}: quotes can't be part of it")
    mtu = options.get(r.OPTION_MTU, "1500")
    if not mtu.isdecimal() or int(mtu) not in _MTU_RANGE:
        raise InvalidArgument(f"invalid {r.OPTION_MTU} {mtu!r}: a number from 68 to 65535")
    for key in (r.OPTION_ICC, r.OPTION_MASQUERADE):
        if options.get(key, "true") not in ("true", "false", "1", "0"):
            raise InvalidArgument(f"invalid {key} {options[key]!r}: true or false")


def _check_ipam(ipam: IPAM) -> IPAMConfig:
    if ipam.driver not in ("", "default", None):
        raise NotFound(f'plugin "{ipam.driver}" not found')
    configs = ipam.config or []
    if any(":" in config.subnet for config in configs):
        raise NotSupported("IPAM.Config: IPv6 subnets are not supported")
    if len(configs) > 1:
        raise NotSupported("IPAM.Config: more than one subnet is not supported")
    config = configs[0] if configs else IPAMConfig()
    if not config.subnet and (config.gateway or config.ip_range or config.auxiliary_addresses or config.aux_address):
        raise InvalidArgument("IPAM.Config: Gateway, IPRange and AuxiliaryAddresses need a Subnet")
    return config


def shown(record: NetworkRecord, sandboxes: Iterable[SandboxRecord]) -> Network:
    """What list and inspect answer."""
    configs = []
    if record.subnet:
        configs = [
            IPAMConfig(
                subnet=record.subnet,
                ip_range=record.ip_range,
                gateway=record.gateway,
                auxiliary_addresses=record.auxiliary or None,
            )
        ]
    configs += [IPAMConfig(subnet=subnet, gateway=gateway) for subnet, gateway in record.pools]
    return Network(
        name=record.name,
        id=record.id,
        created=rfc3339nano(record.created_ns),
        scope="swarm" if record.is_overlay else "local",
        driver=record.driver,
        ipam=IPAM(driver=record.ipam_driver, options=record.ipam_options, config=configs),
        internal=record.internal,
        attachable=record.attachable,
        containers={
            sandbox.container_id: NetworkContainer(
                name=sandbox.container_name,
                endpoint_id=endpoint.id,
                mac_address=endpoint.mac,
                ipv4_address=f"{endpoint.address}/{endpoint.prefix_len}" if endpoint.address else "",
            )
            for sandbox in sandboxes
            for endpoint in sandbox.endpoints
            if endpoint.network_id == record.id
        },
        options=record.options,
        labels=record.labels,
    )


def matcher(
    filters: Mapping[str, Sequence[str]], in_use: Callable[[NetworkRecord], bool]
) -> Callable[[NetworkRecord], bool]:
    """A predicate for the filters of `GET /networks`. Raises InvalidArgument for a name or value that can't be."""
    for key in filters:
        if key not in FILTERS:
            raise InvalidArgument(f"Invalid filter '{key}'")
    for value in filters.get("type", ()):
        if value not in ("custom", "builtin"):
            raise InvalidArgument(f"invalid filter: 'type'='{value}'")
    for value in filters.get("dangling", ()):
        if value not in ("true", "1", "false", "0"):
            raise InvalidArgument(f"invalid filter 'dangling=[{value}]'")

    def passes(record: NetworkRecord) -> bool:
        checks: dict[str, Callable[[str], bool]] = {
            "driver": lambda value: value == record.driver,
            "id": lambda value: value in record.id,
            "name": lambda value: value in record.name,
            "scope": lambda value: value == ("swarm" if record.is_overlay else "local"),
            "type": lambda value: (value == "builtin") == record.predefined,
            "dangling": lambda value: (value in ("true", "1")) == (not record.predefined and not in_use(record)),
        }
        alternatives = all(any(map(check, filters[key])) for key, check in checks.items() if filters.get(key))
        return alternatives and all(_has_label(record.labels, value) for value in filters.get("label", ()))

    return passes


def accepts(filters: Mapping[str, Sequence[str]]) -> Callable[[Network], bool]:
    """The same filters for a network as the API shows it; it counts as used when containers of this host are on it.
    Raises InvalidArgument."""

    def passes(network: Network) -> bool:
        record = NetworkRecord(id=network.id, name=network.name, driver=network.driver, labels=network.labels)
        return matcher(filters, lambda _: bool(network.containers))(record)

    matcher(filters, lambda _: False)
    return passes


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)
