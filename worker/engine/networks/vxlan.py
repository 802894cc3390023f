"""One overlay network's place on this host: a namespace with a bridge and a VXLAN link. Blocking.

The VXLAN link is made in the host's namespace, so that its packets travel on the host's underlay, and then moved. It
is bound to no address: a host that moves to another one keeps its networks. It learns nothing: who is where is written
into its tables (`forwarding`), and address questions are answered from its neighbour entries, so no broadcast ever
leaves the host. The gateway's address is on every host's bridge alike.

Source: `ip-link(8)` type vxlan; the kernel's Documentation/networking/vxlan.rst.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from api.types.dataplane import Overlay
from api.wire.ipam import mac_of, parse_address
from worker.engine.networks.links import index_of, keep_hardware_address, make_sandbox, sysctl
from worker.engine.networks.rtnl import RouteSocket
from worker.engine.syscalls import netns

BRIDGE, VXLAN = "br0", "vxlan0"
PORT = 4789


@dataclass(frozen=True)
class Difference:
    """What the kernel's tables lack, have wrong, or have too much of."""

    missing: Mapping[str, str]
    """Address to node."""
    surplus: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.missing) or bool(self.surplus)


def mac(address: str) -> str:
    """The hardware address of whoever has this address on an overlay."""
    return mac_of(parse_address("address", address))


def ensure(path: Path, overlay: Overlay) -> bool:
    """Make the network's namespace unless it stands; answers whether it was made. On failure nothing is left."""
    if netns.is_namespace(path) and netns.call(path, lambda: index_of(VXLAN) is not None):
        return False
    remove(path)
    make_sandbox(path)
    try:
        _move_vxlan(path, overlay)
        netns.call(path, lambda: _arrange(overlay))
    except BaseException:
        remove(path)
        raise
    return True


def _move_vxlan(path: Path, overlay: Overlay) -> None:
    name = f"shvx{overlay.vni}"
    with IPRoute() as ip:
        stale = index_of(name)
        if stale is not None:
            ip.link("del", index=stale)
        ip.link(
            "add",
            ifname=name,
            kind="vxlan",
            vxlan_id=overlay.vni,
            vxlan_port=PORT,
            vxlan_learning=0,
            vxlan_proxy=1,
        )
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            ip.link("set", index=socket.if_nametoindex(name), net_ns_fd=descriptor, ifname=VXLAN)
        except BaseException:
            ip.link("del", index=socket.if_nametoindex(name))
            raise
        finally:
            os.close(descriptor)


def _arrange(overlay: Overlay) -> None:
    sysctl("ipv4/ip_forward", "1")
    if Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists():
        sysctl("bridge/bridge-nf-call-iptables", "0")
    with IPRoute() as ip:
        ip.link("add", ifname=BRIDGE, kind="bridge", mtu=overlay.mtu)
        bridge, vxlan = socket.if_nametoindex(BRIDGE), socket.if_nametoindex(VXLAN)
        keep_hardware_address(ip, bridge)
        for pool in overlay.pools:
            prefix = int(pool.subnet.partition("/")[2])
            ip.addr("add", index=bridge, address=pool.gateway, prefixlen=prefix)
        ip.link("set", index=vxlan, master=bridge, mtu=overlay.mtu, state="up")
        ip.link("set", index=bridge, state="up")
    with RouteSocket() as route:
        route.no_learning(vxlan)  # it knows its own hosts' containers (links.py); all the others are behind this port


def remove(path: Path) -> None:
    """The kernel drops the links with the namespace. Idempotent."""
    netns.remove(path)


def change(path: Path, missing: Mapping[str, str], surplus: frozenset[str]) -> None:
    """Write who is where. `missing` maps address to node."""

    def work() -> None:
        index = socket.if_nametoindex(VXLAN)
        with RouteSocket() as route:
            for address in surplus:
                route.no_neighbour(index, address)
                route.no_forwarding(index, mac(address))
            for address, node in missing.items():
                route.forwarding(index, mac(address), node)
                route.neighbour(index, address, mac(address))

    netns.call(path, work)


def differences(path: Path, wanted: Mapping[str, str]) -> Difference:
    """Compare the kernel's tables with who should be where."""
    neighbours, forwarding = netns.call(path, _read)
    missing = {
        address: node
        for address, node in wanted.items()
        if neighbours.get(address) != mac(address) or forwarding.get(mac(address)) != node
    }
    known = {mac(address): address for address in wanted}
    surplus = {address for address in neighbours if address not in wanted}
    surplus |= {_address_of(hardware) for hardware in forwarding if hardware not in known}
    return Difference(missing, frozenset(surplus))


def _address_of(hardware: str) -> str:
    return ".".join(str(int(part, 16)) for part in hardware.split(":")[2:])


def _read() -> tuple[dict[str, str], dict[str, str]]:
    """(address to hardware address, hardware address to node) of the VXLAN link's permanent entries."""
    index = socket.if_nametoindex(VXLAN)
    with IPRoute() as ip:
        neighbours = {
            str(entry.get_attr("NDA_DST")): str(entry.get_attr("NDA_LLADDR"))
            for entry in ip.get_neighbours(socket.AF_INET, ifindex=index)
            if entry.get_attr("NDA_LLADDR")
        }
        forwarding = {
            str(entry.get_attr("NDA_LLADDR")): str(entry.get_attr("NDA_DST"))
            for entry in ip.fdb("dump", ifindex=index)
            if entry.get_attr("NDA_DST")
        }
    return neighbours, forwarding
