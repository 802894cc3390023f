"""Which addresses a swarm node listens on and tells others (v1.24 "Initialize a new swarm").

Pure but for `interface_addresses`, which reads this machine's; the rules take what it found.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from api.errors import InvalidArgument

SWARM_PORT = 2377
DEFAULT_LISTEN = f"0.0.0.0:{SWARM_PORT}"
_SIOCGIFADDR = 0x8915

Interfaces = Mapping[str, str]
"""Interface name -> its IPv4 address."""


def interface_addresses() -> dict[str, str]:
    """This host's interfaces that have an IPv4 address, without loopback and without bridges of containers."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            if name == "lo" or Path(f"/sys/class/net/{name}/bridge").exists():
                continue
            try:
                answer = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has no IPv4 address
            found[name] = socket.inet_ntoa(answer[20:24])
    return found


def resolve_listen(text: str, interfaces: Interfaces) -> str:
    """`host:port` to bind, from an address or interface with or without a port; the default when empty."""
    host, port = _split(text or DEFAULT_LISTEN, "ListenAddr")
    return f"{_to_address(host, interfaces, 'ListenAddr')}:{port}"


def resolve_advertise(text: str, default: str, listen: str, interfaces: Interfaces) -> str:
    """`host:port` that other nodes reach this one at.

    Taken from the request, else from the daemon's setting, else from the listening address if it is a specific one,
    else the only address of this host. Raises InvalidArgument when there are several, or none.
    """
    listen_host, listen_port = _split(listen, "ListenAddr")
    for given in (text, default):
        if given:
            host, port = _split(given, "AdvertiseAddr", listen_port)
            address = _to_address(host, interfaces, "AdvertiseAddr")
            if ipaddress.ip_address(address).is_unspecified:
                raise InvalidArgument("AdvertiseAddr: advertise address must be a non-zero IP address or network "
                                      "interface (with optional port number)")  # fmt: skip
            return f"{address}:{port}"
    if not ipaddress.ip_address(listen_host).is_unspecified:
        return listen
    if len(interfaces) == 1:
        return f"{next(iter(interfaces.values()))}:{listen_port}"
    if not interfaces:
        raise InvalidArgument("could not find the system's IP address - specify one with --advertise-addr")
    listed = " and ".join(f"{address} on {name}" for name, address in sorted(interfaces.items())[:2])
    raise InvalidArgument(
        "could not choose an IP address to advertise since this system has multiple addresses on different "
        f"interfaces ({listed}) - specify one with --advertise-addr"
    )


def resolve_remote(text: str) -> str:
    """`host:port` of a manager to join through; the port may be left out."""
    host, port = _split(text, "RemoteAddrs")
    return f"{host}:{port}"


def still_there(address: str, interfaces: Interfaces) -> bool:
    """Whether this host can listen on the address part of `host:port`."""
    host, _ = _split(address, "ListenAddr")
    return ipaddress.ip_address(host).is_unspecified or host.startswith("127.") or host in interfaces.values()


def is_literal(text: str) -> bool:
    """Whether the user wrote an address, not an interface's name or nothing."""
    host = text.rpartition(":")[0] if ":" in text else text
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _split(text: str, field: str, default_port: str = str(SWARM_PORT)) -> tuple[str, str]:
    host, separator, port = text.rpartition(":")
    if not separator:
        host, port = text, default_port
    if not host or ":" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"{field}: {text!r} is not an IPv4 address or interface with an optional port")
    return host, port


def _to_address(host: str, interfaces: Interfaces, field: str) -> str:
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        pass
    if host in interfaces:
        return interfaces[host]
    raise InvalidArgument(f"{field}: {host!r} is neither an IPv4 address nor an interface with one")
