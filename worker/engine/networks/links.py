"""Bridges, veth pairs, addresses and routes by rtnetlink. Blocking; one thread uses one `Links`.

Links are named by us and found by index of a known name (one ioctl), never by dumping all links. A veth pair is made
in one message: peer already inside the container's namespace, host end already on the bridge and up. What each
container's start needs goes through `rtnl`, the rest through pyroute2.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from api.errors import Conflict, Internal
from worker.engine.networks.rtnl import RouteSocket
from worker.engine.syscalls import netns

INTERFACE_NAME_MAX = 15
_LOOPBACK = 1


@dataclass(frozen=True)
class BridgePlan:
    """A bridge as it must be."""

    name: str
    address: str
    """The gateway, as `address/prefix`."""
    mtu: int = 1500
    filtered: bool = False
    """Packets between its ports must pass the firewall, too (icc off)."""


@dataclass(frozen=True)
class EndpointPlan:
    """A veth pair, or a macvlan link on `parent`, as it must be."""

    link: str
    bridge: str
    interface: str
    mac: str
    address: str
    prefix_len: int
    gateway: str
    """The default route of the namespace; empty for none."""
    mtu: int = 1500
    within: Path | None = None
    """The namespace that holds the bridge; None: the host's."""
    routes: tuple[tuple[str, str], ...] = ()
    """(subnet, gateway) of routes beside the default one."""
    parent: str = ""
    """The host's link that a macvlan link is on; empty for a pair."""
    mode: int = 0
    """Of a macvlan link: the kernel's number."""


def index_of(name: str) -> int | None:
    """The link's index in the calling thread's namespace; None if there is no such link."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def sysctl(path: str, value: str) -> None:
    """Write /proc/sys/net/`path` of the calling thread's namespace, unless it says so already."""
    file = Path("/proc/sys/net") / path
    if file.read_text().strip() != value:
        file.write_text(value)


def keep_hardware_address(ip: IPRoute, index: int) -> None:
    """A bridge whose address nobody set takes its lowest port's, and changes it as ports come and go: everybody's
    neighbour entries for the gateway are wrong then, until they have been probed in vain. Set, it stays."""
    (link,) = ip.link("get", index=index)
    ip.link("set", index=index, address=link.get_attr("IFLA_ADDRESS"))


class Links:
    """The host's side. Make it, use it and close it in the same thread."""

    def __init__(self) -> None:
        self._ip = IPRoute()
        self._route = RouteSocket()

    def close(self) -> None:
        self._ip.close()
        self._route.close()

    def ensure_bridge(self, plan: BridgePlan) -> None:
        """Make the bridge or put an existing one right; idempotent. Raises Conflict for another kind of link, OSError
        when `filtered` is asked for and the kernel has no bridge-netfilter."""
        index = index_of(plan.name)
        if index is None:
            self._ip.link("add", ifname=plan.name, kind="bridge", mtu=plan.mtu)
            index = self._index(plan.name)
        elif not Path(f"/proc/sys/net/ipv4/conf/{plan.name}").exists() or self._kind(index) != "bridge":
            raise Conflict(f"link {plan.name} exists and is not a bridge")
        keep_hardware_address(self._ip, index)
        address, _, prefix = plan.address.partition("/")
        if address:
            with _ignoring(errno.EEXIST):
                self._ip.addr("add", index=index, address=address, prefixlen=int(prefix))
        self._ip.link("set", index=index, state="up")
        sysctl(f"ipv4/conf/{plan.name}/route_localnet", "1")
        sysctl("ipv4/ip_forward", "1")
        if plan.filtered:
            sysctl("bridge/bridge-nf-call-iptables", "1")

    def _kind(self, index: int) -> str:
        (link,) = self._ip.link("get", index=index)
        information = link.get_attr("IFLA_LINKINFO")
        return str(information.get_attr("IFLA_INFO_KIND")) if information is not None else ""

    def _index(self, name: str) -> int:
        index = index_of(name)
        if index is None:
            raise Internal(f"link {name} is gone")
        return index

    def remove(self, name: str) -> None:
        """Remove a link (and the peer of a veth); idempotent."""
        index = index_of(name)
        if index is not None:
            with _ignoring(errno.ENODEV):
                self._ip.link("del", index=index)

    def add_endpoint(self, plan: EndpointPlan, namespace: Path) -> None:
        """Join `namespace` to the bridge; on failure no link is left. Raises OSError."""
        if plan.within is not None:
            netns.call(plan.within, lambda: _add_pair_here(plan, namespace))
            netns.call(namespace, lambda: _configure(plan))  # a failure is undone with the namespace
            return
        if plan.parent:
            self._add_macvlan(plan, namespace)
            return
        _add_pair(self._route, plan, namespace)
        try:
            self._route.hairpin(self._index(plan.link))
            netns.call(namespace, lambda: _configure(plan))
        except BaseException:
            self.remove(plan.link)
            raise

    def _add_macvlan(self, plan: EndpointPlan, namespace: Path) -> None:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._route.add_macvlan(
                plan.interface,
                parent=self._index(plan.parent),
                mode=plan.mode,
                mac=plan.mac,
                namespace=descriptor,
                mtu=plan.mtu,
            )
        finally:
            os.close(descriptor)
        try:
            netns.call(namespace, lambda: _configure(plan))
        except BaseException:
            remove_inside(namespace, plan.interface)
            raise

    def ensure_parent(self, name: str, vlan: tuple[str, int] | None) -> None:
        """Make a parent of macvlan links: a VLAN of another link, or one that leads nowhere. Idempotent."""
        if index_of(name) is None:
            if vlan is not None:
                self._ip.link("add", ifname=name, kind="vlan", link=self._index(vlan[0]), vlan_id=vlan[1])
            else:
                self._add_lone(name)
        self._ip.link("set", index=self._index(name), state="up")

    def _add_lone(self, name: str) -> None:
        try:
            self._ip.link("add", ifname=name, kind="dummy")
        except NetlinkError as error:
            if error.code != errno.EOPNOTSUPP:
                raise
            # Drops what it is given, too, and is in kernels without dummy links.
            self._ip.link("add", ifname=name, kind="ifb")


def remove_inside(namespace: Path, interface: str) -> None:
    """Remove a link of a sandbox; idempotent."""

    def remove() -> None:
        index = index_of(interface)
        if index is not None:
            with IPRoute() as ip, _ignoring(errno.ENODEV):
                ip.link("del", index=index)

    netns.call(namespace, remove)


def _add_pair(route: RouteSocket, plan: EndpointPlan, namespace: Path) -> None:
    """In the calling thread's namespace, where the bridge is."""
    bridge = index_of(plan.bridge)
    if bridge is None:
        raise Internal(f"link {plan.bridge} is gone")
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        route.add_veth(
            plan.link, peer=plan.interface, peer_mac=plan.mac, peer_netns=descriptor, master=bridge, mtu=plan.mtu
        )
    finally:
        os.close(descriptor)


def _add_pair_here(plan: EndpointPlan, namespace: Path) -> None:
    """On an overlay the bridge is told who is where. Left to learn, it would go on sending frames for an address that
    another host had to that host, until the one who has it now speaks."""
    with RouteSocket() as route:
        _add_pair(route, plan, namespace)
        route.behind(socket.if_nametoindex(plan.link), plan.mac)


def _configure(plan: EndpointPlan) -> None:
    """Inside the namespace: address, up, default route."""
    with RouteSocket() as route:
        index = socket.if_nametoindex(plan.interface)
        route.add_address(index, plan.address, plan.prefix_len)
        route.up(index)
        if plan.gateway:
            route.default_route(plan.gateway)
        for subnet, gateway in plan.routes:
            route.route(subnet, gateway)


_DISABLE_IPV6 = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
"""Of the network namespace of the thread that opens it."""


def make_sandbox(path: Path) -> None:
    """A new namespace under `path` with loopback up; on failure nothing is left."""
    netns.create(path)
    try:
        netns.call(path, _loopback_up)
    except BaseException:
        netns.remove(path)
        raise


def _loopback_up() -> None:
    # Networks are IPv4 alone: programs must not find addresses, loopback's too, that lead nowhere.
    with contextlib.suppress(OSError):  # a kernel without IPv6
        _DISABLE_IPV6.write_text("1")
    with RouteSocket() as route:
        route.up(_LOOPBACK)


def set_default_route(namespace: Path, gateway: str) -> None:
    """Point the namespace's default route at `gateway`; an empty one takes it away."""

    def change() -> None:
        with IPRoute() as ip:
            if gateway:
                ip.route("replace", dst="default", gateway=gateway)
            else:
                with _ignoring(errno.ESRCH):
                    # Without a family the kernel does not know of which table's default we speak.
                    ip.route("del", dst="default", family=socket.AF_INET)

    netns.call(namespace, change)


class _ignoring(contextlib.AbstractContextManager[None]):  # noqa: N801 - reads as a statement
    """Swallow a NetlinkError of one code."""

    def __init__(self, code: int) -> None:
        self._code = code

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, NetlinkError) and error.code == self._code
