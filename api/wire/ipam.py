"""Pure address management: choosing a subnet for a network, and addresses within it.

Invariants: no address is handed out twice; network and broadcast address, gateway and auxiliary addresses are never
handed out; a chosen subnet overlaps no given one. IPv4 only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from api.errors import Conflict, InvalidArgument, Unavailable


@dataclass(frozen=True)
class AddressPools:
    """Where subnets of networks without a given one come from: pieces of `size` bits out of each base, in order."""

    bases: tuple[tuple[IPv4Network, int], ...] = (
        *((IPv4Network(f"172.{second}.0.0/16"), 16) for second in range(17, 32)),
        (IPv4Network("192.168.0.0/16"), 20),
    )

    def candidates(self) -> Iterator[IPv4Network]:
        for base, size in self.bases:
            yield from base.subnets(new_prefix=size)


def choose_subnet(pools: AddressPools, taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first free piece. Raises Unavailable with Docker's text when none is left."""
    used = list(taken)
    for candidate in pools.candidates():
        if not any(candidate.overlaps(other) for other in used):
            return candidate
    raise Unavailable(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
    )


@dataclass
class Subnet:
    """One network's addresses. Changed by `allocate` and `release` only."""

    network: IPv4Network
    gateway: IPv4Address
    range: IPv4Network
    """Where addresses that nobody asked for by name come from; within `network`."""
    reserved: Mapping[str, IPv4Address] = field(default_factory=dict)
    """Auxiliary addresses: device name to address."""
    used: set[IPv4Address] = field(default_factory=set)
    _from: int = 0
    """No address of the range below this one is free."""

    def __post_init__(self) -> None:
        self._never = {self.gateway, *self.reserved.values()}
        if self.network.prefixlen < 31:
            self._never |= {self.network.network_address, self.network.broadcast_address}
        self._from = int(self.range.network_address)

    def allocate(self, wanted: IPv4Address | None = None) -> IPv4Address:
        """The lowest free address, or `wanted`. Raises Conflict (in use), InvalidArgument (outside), Unavailable."""
        if wanted is not None:
            return self._take(wanted)
        for number in range(self._from, int(self.range.broadcast_address) + 1):
            address = IPv4Address(number)
            if address not in self._never and address not in self.used:
                self.used.add(address)
                self._from = number + 1
                return address
        raise Unavailable("no available IPv4 addresses on this network's address pools")

    def _take(self, wanted: IPv4Address) -> IPv4Address:
        if wanted not in self.network:
            raise InvalidArgument(f"invalid address {wanted}: It does not belong to any of this network's subnets")
        if wanted in self.used or wanted in self._never:
            raise Conflict("Address already in use")
        self.used.add(wanted)
        return wanted

    def release(self, address: IPv4Address) -> None:
        """Make it free again; idempotent."""
        self.used.discard(address)
        if address in self.range:
            self._from = min(self._from, int(address))


def make_subnet(
    subnet: str, gateway: str = "", ip_range: str = "", reserved: Mapping[str, str] | None = None
) -> Subnet:
    """From what a user writes (v1.24 "Create a network", IPAM.Config). Raises InvalidArgument naming the field."""
    network = parse_network("Subnet", subnet)
    if network.num_addresses < 4:
        raise InvalidArgument(f"invalid subnet {subnet}: too small for a gateway and a container")
    within = parse_network("IPRange", ip_range) if ip_range else network
    if not within.subnet_of(network):
        raise InvalidArgument(f"invalid ip-range {ip_range}: it is not within the subnet {subnet}")
    extra = {name: parse_address("AuxiliaryAddresses", text) for name, text in (reserved or {}).items()}
    first = parse_address("Gateway", gateway) if gateway else _first_free(within, set(extra.values()), network)
    for label, address in (("gateway", first), *(("auxiliary address", address) for address in extra.values())):
        if address not in network:
            raise InvalidArgument(f"invalid {label} {address}: it is not within the subnet {subnet}")
    if first in extra.values():
        raise InvalidArgument(f"invalid auxiliary address {first}: it is the gateway")
    return Subnet(network, first, within, extra)


def _first_free(within: IPv4Network, taken: set[IPv4Address], network: IPv4Network) -> IPv4Address:
    never = taken | {network.network_address, network.broadcast_address}
    for address in within:
        if address not in never:
            return address
    raise InvalidArgument(f"invalid ip-range {within}: no address is left for the gateway")


def parse_network(name: str, text: str) -> IPv4Network:
    """A CIDR whose host bits are zero. Raises InvalidArgument naming the field."""
    try:
        return IPv4Network(text)
    except ValueError:
        pass
    try:
        corrected = IPv4Network(text, strict=False)
    except ValueError:
        raise InvalidArgument(f"invalid {name} {text!r}: not an IPv4 CIDR block") from None
    raise InvalidArgument(f"invalid {name} {text}: it should be {corrected}")


def parse_address(name: str, text: str) -> IPv4Address:
    """Raises InvalidArgument naming the field."""
    try:
        return IPv4Address(text.partition("/")[0])
    except ValueError:
        raise InvalidArgument(f"invalid {name} {text!r}: not an IPv4 address") from None


def mac_of(address: IPv4Address) -> str:
    """Docker's scheme: 02:42 and the four bytes of the address."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x42, *address.packed))


def parse_routes(text: str) -> list[tuple[str, IPv4Network]]:
    """(interface, destination) of each line of /proc/net/route, default routes left out."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[1] == "00000000":
            continue
        destination = IPv4Address(int.from_bytes(bytes.fromhex(fields[1]), "little"))
        mask = IPv4Address(int.from_bytes(bytes.fromhex(fields[7]), "little"))
        if int(mask):
            found.append((fields[0], IPv4Network(f"{destination}/{mask}")))
    return found
