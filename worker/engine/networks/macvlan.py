"""Networks of the driver macvlan: what their options mean. Pure.

Containers of such a network have links of their own on a parent, a link of the host: they are neighbours of the hosts
on its wire. No packet of theirs passes this host's rules, so no port is published for them. A parent `eth0.10` that is
not there is made (VLAN 10 of eth0); without a parent a link of our own that leads nowhere serves. The words of errors
are dockerd's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from api.errors import Conflict, InvalidArgument
from base.ids import short_id
from worker.engine.networks.links import INTERFACE_NAME_MAX
from worker.engine.networks.records import NetworkRecord

DRIVER = "macvlan"
OPTION_PARENT, OPTION_MODE = "parent", "macvlan_mode"
MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
"""Numbers of include/uapi/linux/if_link.h."""
_VLAN_IDS = range(1, 4095)


@dataclass(frozen=True)
class Parent:
    """The link that the containers' links are on."""

    link: str
    made: bool = False
    """It is ours: made with the network, and taken away with it."""


def lone(network_id: str) -> str:
    """The link of a network without a parent, and dockerd's name for any."""
    return f"dm-{short_id(network_id)}"


def vlan(link: str) -> tuple[str, int] | None:
    """`eth0.10` as ("eth0", 10); None for another kind of name. Raises InvalidArgument for a number that can't be."""
    base, dot, number = link.rpartition(".")
    if not dot or not base:
        return None
    if not number.isdecimal():
        raise InvalidArgument(f"unable to parse a valid vlan id from: {number} (ex. eth0.10 for vlan 10)")
    if int(number) not in _VLAN_IDS:
        raise InvalidArgument(f"vlan id must be between 1-4094, received: {number}")
    return base, int(number)


def candidates(options: Mapping[str, str]) -> list[str]:
    """The host's links that matter for these options."""
    link = options.get(OPTION_PARENT, "")
    return [link, link.rpartition(".")[0]] if link else []


def mode(options: Mapping[str, str]) -> int:
    """The kernel's number. Raises InvalidArgument."""
    asked = options.get(OPTION_MODE) or "bridge"
    if asked not in MODES:
        raise InvalidArgument(
            f"requested macvlan mode '{asked}' is not valid, 'bridge' mode is the macvlan driver default"
        )
    return MODES[asked]


def parent_of(
    options: Mapping[str, str], network_id: str, present: Collection[str], others: Iterable[NetworkRecord]
) -> Parent:
    """The parent that a new network asks for.

    Args:
        present: those of `candidates` that the host has.
        others: all networks.

    Raises:
        InvalidArgument: a mode or a parent that can't be.
        Conflict: another network has that parent.
    """
    mode(options)
    link = options.get(OPTION_PARENT, "")
    if not link:
        return Parent(lone(network_id), made=True)
    if link == "lo":
        raise InvalidArgument("loopback interface is not a valid macvlan parent link")
    for other in others:
        if other.parent == link:
            raise Conflict(f"network {lone(other.id)} is already using parent interface {link}")
    if link in present:
        return Parent(link)
    found = vlan(link)
    if found is None or len(link.encode()) > INTERFACE_NAME_MAX:
        raise InvalidArgument(f"invalid subinterface vlan name {link}, example formatting is eth0.10")
    if found[0] not in present:
        raise InvalidArgument(f"-o parent interface does was not found on the host: {found[0]}")
    return Parent(link, made=True)
