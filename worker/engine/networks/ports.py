"""Ports of the host: which are published, and a bound socket for each, so that other programs see it in use.

Invariant: a port is either in `_held` with an open socket, or free. TCP sockets listen (with nothing ever accepted:
new connections are taken away by nftables before they get here), because only a listening socket keeps others from
binding with SO_REUSEADDR, and because sockets in TIME_WAIT must not keep us from binding.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import random
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from api.errors import Internal, InvalidArgument, NotSupported
from api.types.endpoint import PortBinding
from worker.engine.networks.rules import ANY

EPHEMERAL = range(32768, 61000)
_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class PortInUse(Internal):
    """A 500 of `start`, as in v1.24; the text is Docker's."""


@dataclass(frozen=True)
class PortWish:
    """One binding as asked for, checked. An empty range of host ports stands for an ephemeral one."""

    protocol: str
    container_port: int
    host_ip: str
    host_ports: range


def parse_port(text: str) -> tuple[int, str]:
    """`80/tcp` (or `80`) to (80, "tcp"). Raises InvalidArgument."""
    number, _, protocol = text.partition("/")
    protocol = (protocol or "tcp").lower()
    if not re.fullmatch(r"\d{1,5}", number) or not 0 < int(number) < 65536:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f'invalid port specification: "{text}": unknown protocol {protocol}')
    return int(number), protocol


def parse_host_ports(text: str) -> range:
    """``""``, `8080` or `8000-8010`. Raises InvalidArgument."""
    if text in ("", "0"):
        return range(0)
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text)
    if match is None:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    first, last = int(match[1]), int(match[2] or match[1])
    if not 0 < first <= last < 65536:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    return range(first, last + 1)


def wishes(
    ports: Mapping[str, Sequence[PortBinding]], exposed: Iterable[str], publish_all: bool, default_ip: str = ANY
) -> list[PortWish]:
    """All bindings a container asks for, in the order of its ports. Raises InvalidArgument, NotSupported (IPv6)."""
    asked: dict[str, Sequence[PortBinding]] = {key: bindings for key, bindings in ports.items() if bindings}
    if publish_all:
        for key in exposed:
            asked.setdefault(normal(key), [PortBinding()])
    found = []
    for key, bindings in asked.items():
        number, protocol = parse_port(key)
        if protocol not in _TYPES:
            raise NotSupported(f"publishing {protocol} ports is not supported")
        for binding in bindings:
            found.append(
                PortWish(protocol, number, _host_ip(binding.host_ip or default_ip), parse_host_ports(binding.host_port))
            )
    return sorted(found, key=lambda wish: (wish.container_port, wish.protocol))


def normal(key: str) -> str:
    """`80` to `80/tcp`. Raises InvalidArgument."""
    number, protocol = parse_port(key)
    return f"{number}/{protocol}"


def _host_ip(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f'invalid IP address "{text}" in a port binding') from None
    if address.version != 4:
        raise NotSupported(f"publishing a port on the IPv6 address {text} is not supported")
    return str(address)


class HostPorts:
    """Allocates ports of the host. All calls are quick and made from the event loop's thread."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._held: dict[tuple[str, int], dict[str, socket.socket]] = {}
        """(protocol, port) to the sockets by host address."""
        self._chance = chance or random.Random()

    def take(self, wish: PortWish) -> int:
        """Reserve a port for the wish. Raises PortInUse with Docker's text; nothing is kept then."""
        if not wish.host_ports:
            return self._take_ephemeral(wish)
        failure: OSError | None = None
        for port in wish.host_ports:
            if self._clashes(wish.protocol, wish.host_ip, port):
                continue
            try:
                return self._hold(wish.protocol, wish.host_ip, port)
            except OSError as error:
                failure = error
        raise self._refusal(wish, failure)

    def _take_ephemeral(self, wish: PortWish) -> int:
        start = self._chance.randrange(len(EPHEMERAL))
        for step in range(len(EPHEMERAL)):
            port = EPHEMERAL[(start + step) % len(EPHEMERAL)]
            if self._clashes(wish.protocol, wish.host_ip, port):
                continue
            try:
                return self._hold(wish.protocol, wish.host_ip, port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise self._refusal(wish, error) from None
        raise PortInUse(f"all ports of {wish.host_ip} are allocated")

    def hold_again(self, protocol: str, host_ip: str, port: int) -> bool:
        """After a restart, for a container that still runs. False: another program took the port meanwhile."""
        try:
            self._hold(protocol, host_ip, port)
        except OSError:
            return False
        return True

    def _hold(self, protocol: str, host_ip: str, port: int) -> int:
        held = socket.socket(socket.AF_INET, _TYPES[protocol] | socket.SOCK_CLOEXEC)
        try:
            if protocol == "tcp":
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((host_ip, port))
            if protocol == "tcp":
                held.listen(0)
        except BaseException:
            held.close()
            raise
        self._held.setdefault((protocol, port), {})[host_ip] = held
        return port

    def _clashes(self, protocol: str, host_ip: str, port: int) -> bool:
        held = self._held.get((protocol, port), {})
        return bool(held) and (host_ip == ANY or ANY in held or host_ip in held)

    def _refusal(self, wish: PortWish, error: OSError | None) -> PortInUse:
        first = wish.host_ports[0] if wish.host_ports else 0
        if error is None:
            return PortInUse(f"Bind for {wish.host_ip}:{first} failed: port is already allocated")
        text = os.strerror(error.errno or errno.EINVAL).lower()
        return PortInUse(
            f"failed to bind host port for {wish.host_ip}:{first}:{wish.container_port}/{wish.protocol}: {text}"
        )

    def give_back(self, protocol: str, host_ip: str, port: int) -> None:
        """Idempotent."""
        sockets = self._held.get((protocol, port), {})
        held = sockets.pop(host_ip, None)
        if held is not None:
            held.close()
        if not sockets:
            self._held.pop((protocol, port), None)

    def close(self) -> None:
        """Let all go; the rules stay, running containers remain reachable."""
        for sockets in self._held.values():
            for held in sockets.values():
                held.close()
        self._held.clear()
