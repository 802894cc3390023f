"""The few rtnetlink requests of a container's start, on one plain blocking socket.

pyroute2's general machinery (an event loop, a parser and two threads' worth of bookkeeping per socket) costs 5 to 10 ms
on this path, this costs under one; everything that is not on the path of a container's start stays with pyroute2.
Wire format: rtnetlink(7), include/uapi/linux/{rtnetlink,if_link,veth,if_bridge}.h. Little- and big-endian: the host's.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from types import TracebackType

_NEWLINK, _SETLINK, _NEWADDR, _NEWROUTE, _NEWNEIGH, _DELNEIGH = 16, 19, 20, 24, 28, 29
_ERROR = 2
_REQUEST, _ACK, _REPLACE, _EXCLUSIVE, _CREATE = 1, 4, 0x100, 0x200, 0x400
_NESTED = 0x8000
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_PROTINFO, _IFLA_LINKINFO, _IFLA_NET_NS_FD = (
    1, 3, 4, 10, 12, 18, 28,
)  # fmt: skip
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFLA_LINK, _MACVLAN_MODE = 5, 1
_BRPORT_MODE, _BRPORT_LEARNING, _BRPORT_UNICAST_FLOOD = 4, 8, 9
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST, _RTA_GATEWAY = 1, 5
_NDA_DST, _NDA_LLADDR = 1, 2
_PERMANENT, _NO_ARP, _SELF, _MASTER = 0x80, 0x40, 0x02, 0x04
_TABLE_MAIN, _PROTO_STATIC, _SCOPE_UNIVERSE, _UNICAST = 254, 4, 0, 1
_IFF_UP = 1
_RECEIVE_BYTES = 65536


def _attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + bytes(-length % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _link_header(family: int = 0, index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", family, 0, index, flags, change)


def _neighbour(
    family: int,
    index: int,
    flags: int,
    destination: ipaddress.IPv4Address | ipaddress.IPv6Address | None,
    mac: str,
    state: int = _PERMANENT,
) -> bytes:
    body = struct.pack("=BBHiHBB", family, 0, 0, index, state, flags, 0)
    if destination is not None:
        body += _attribute(_NDA_DST, destination.packed)
    if mac:
        body += _attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
    return body


class RouteSocket:
    """Bound to the namespace of the thread that made it. Blocking; not thread-safe."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sequence = 0

    def __enter__(self) -> RouteSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def close(self) -> None:
        self._socket.close()

    def _request(self, kind: int, flags: int, body: bytes, what: str) -> None:
        """Send one request and wait for its acknowledgement. Raises OSError with the kernel's errno."""
        self._sequence += 1
        header = struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            answer = self._socket.recv(_RECEIVE_BYTES)
            _, answered, _, sequence, _ = struct.unpack_from("=IHHII", answer)
            if answered == _ERROR and sequence == self._sequence:
                (code,) = struct.unpack_from("=i", answer, 16)
                if code:
                    raise OSError(-code, f"{what}: {os.strerror(-code)}")
                return

    def add_veth(self, name: str, *, peer: str, peer_mac: str, peer_netns: int, master: int, mtu: int) -> None:
        """A pair: `name` here, up and on the bridge `master`; `peer` in the namespace of the descriptor."""
        inside = (
            _link_header()
            + _text(_IFLA_IFNAME, peer)
            + _attribute(_IFLA_ADDRESS, bytes.fromhex(peer_mac.replace(":", "")))
            + _number(_IFLA_MTU, mtu)
            + _number(_IFLA_NET_NS_FD, peer_netns)
        )
        information = _text(_INFO_KIND, "veth") + _attribute(_INFO_DATA, _attribute(_VETH_PEER, inside))
        body = (
            _link_header(flags=_IFF_UP, change=_IFF_UP)
            + _text(_IFLA_IFNAME, name)
            + _number(_IFLA_MTU, mtu)
            + _number(_IFLA_MASTER, master)
            + _attribute(_IFLA_LINKINFO | _NESTED, information)
        )
        self._request(_NEWLINK, _CREATE | _EXCLUSIVE, body, f"add veth {name}")

    def add_macvlan(self, name: str, *, parent: int, mode: int, mac: str, namespace: int, mtu: int = 0) -> None:
        """`name` in the namespace of the descriptor, on the link `parent` here; with 0 its MTU is the parent's."""
        information = _text(_INFO_KIND, "macvlan") + _attribute(_INFO_DATA, _number(_MACVLAN_MODE, mode))
        body = (
            _link_header()
            + _text(_IFLA_IFNAME, name)
            + _attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
            + (_number(_IFLA_MTU, mtu) if mtu else b"")
            + _number(_IFLA_LINK, parent)
            + _number(_IFLA_NET_NS_FD, namespace)
            + _attribute(_IFLA_LINKINFO | _NESTED, information)
        )
        self._request(_NEWLINK, _CREATE | _EXCLUSIVE, body, f"add macvlan {name}")

    def hairpin(self, index: int) -> None:
        """Let a bridge port send back what came from it."""
        self._port(index, _BRPORT_MODE, b"\1", f"hairpin of link {index}")

    def no_learning(self, index: int) -> None:
        """A bridge must not take what comes from this port for a sign of who is behind it."""
        self._port(index, _BRPORT_LEARNING, b"\0", f"learning of link {index}")

    def behind(self, index: int, mac: str) -> None:
        """Tell a bridge that just this hardware address is behind a port, whatever it has learnt before; frames for
        addresses that it does not know don't go there."""
        entry = _neighbour(socket.AF_BRIDGE, index, _MASTER, None, mac, state=_NO_ARP)
        self._request(_NEWNEIGH, _CREATE | _REPLACE, entry, f"forwarding of {mac} to port {index}")
        self._port(index, _BRPORT_UNICAST_FLOOD, b"\0", f"flooding of link {index}")

    def _port(self, index: int, kind: int, value: bytes, what: str) -> None:
        body = _link_header(socket.AF_BRIDGE, index) + _attribute(_IFLA_PROTINFO | _NESTED, _attribute(kind, value))
        self._request(_SETLINK, 0, body, what)

    def up(self, index: int) -> None:
        self._request(_NEWLINK, 0, _link_header(0, index, _IFF_UP, _IFF_UP), f"set link {index} up")

    def add_address(self, index: int, address: str, prefix_len: int) -> None:
        """An IPv4 address with its broadcast address."""
        interface = ipaddress.IPv4Interface(f"{address}/{prefix_len}")
        body = (
            struct.pack("=BBBBi", socket.AF_INET, prefix_len, 0, _SCOPE_UNIVERSE, index)
            + _attribute(_IFA_LOCAL, interface.ip.packed)
            + _attribute(_IFA_ADDRESS, interface.ip.packed)
            + _attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
        )
        self._request(_NEWADDR, _CREATE | _EXCLUSIVE, body, f"add address {interface}")

    def neighbour(self, index: int, address: str, mac: str) -> None:
        """A permanent neighbour entry; replaces one of the same address."""
        body = _neighbour(socket.AF_INET, index, 0, ipaddress.IPv4Address(address), mac)
        self._request(_NEWNEIGH, _CREATE | _REPLACE, body, f"neighbour {address}")

    def no_neighbour(self, index: int, address: str) -> None:
        """Idempotent."""
        body = _neighbour(socket.AF_INET, index, 0, ipaddress.IPv4Address(address), "")
        self._forget(body, f"remove neighbour {address}")

    def forwarding(self, index: int, mac: str, node: str) -> None:
        """A VXLAN link sends frames for `mac` to `node`; replaces an entry of the same hardware address."""
        body = _neighbour(socket.AF_BRIDGE, index, _SELF, ipaddress.ip_address(node), mac)
        self._request(_NEWNEIGH, _CREATE | _REPLACE, body, f"forwarding of {mac} to {node}")

    def no_forwarding(self, index: int, mac: str) -> None:
        """Idempotent."""
        self._forget(_neighbour(socket.AF_BRIDGE, index, _SELF, None, mac), f"remove forwarding of {mac}")

    def _forget(self, body: bytes, what: str) -> None:
        try:
            self._request(_DELNEIGH, 0, body, what)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def route(self, subnet: str, gateway: str) -> None:
        """Add or replace an IPv4 route."""
        network = ipaddress.IPv4Network(subnet)
        body = (
            struct.pack(
                "=BBBBBBBBI",
                socket.AF_INET, network.prefixlen, 0, 0, _TABLE_MAIN, _PROTO_STATIC, _SCOPE_UNIVERSE, _UNICAST, 0,
            )
            + _attribute(_RTA_DST, network.network_address.packed)
            + _attribute(_RTA_GATEWAY, ipaddress.IPv4Address(gateway).packed)
        )  # fmt: skip
        self._request(_NEWROUTE, _CREATE | _REPLACE, body, f"route to {subnet} by {gateway}")

    def default_route(self, gateway: str) -> None:
        """Add or replace the IPv4 default route."""
        body = struct.pack(
            "=BBBBBBBBI", socket.AF_INET, 0, 0, 0, _TABLE_MAIN, _PROTO_STATIC, _SCOPE_UNIVERSE, _UNICAST, 0
        ) + _attribute(_RTA_GATEWAY, ipaddress.IPv4Address(gateway).packed)
        self._request(_NEWROUTE, _CREATE | _REPLACE, body, f"default route by {gateway}")
