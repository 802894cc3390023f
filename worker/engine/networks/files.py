"""Pure text of a container's hosts, hostname and resolv.conf."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from api.errors import InvalidArgument

EMBEDDED_DNS = "127.0.0.11"
FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
"""What Docker takes when the host has only local servers."""

_LOOPBACK = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def hosts_text(entries: Iterable[tuple[str, str]]) -> str:
    """Loopback names, then `address<TAB>names` for each entry."""
    return _LOOPBACK + "".join(f"{address}\t{names}\n" for address, names in entries)


def own_names(hostname: str, domainname: str) -> str:
    """`host.domain host`, or `host` alone; a hostname that holds its domain gives the same two."""
    if domainname:
        return f"{hostname}.{domainname} {hostname}"
    short, dot, _ = hostname.partition(".")
    return f"{hostname} {short}" if dot else hostname


def parse_extra_host(text: str, host_gateway: str = "") -> tuple[str, str]:
    """`name:address` (or `name=address`) to (address, name). `host-gateway` stands for the bridge's address.

    Raises InvalidArgument with Docker's text.
    """
    match = re.match(r"([^:=]+)[:=](.+)", text)
    if match is None:
        raise InvalidArgument(f'bad format for add-host: "{text}"')
    name, address = match.groups()
    if address == "host-gateway" and host_gateway:
        return host_gateway, name
    try:
        ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        raise InvalidArgument(f'invalid IP address in add-host: "{address}"') from None
    return address.strip("[]"), name


@dataclass(frozen=True)
class Resolver:
    """A resolv.conf, read."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def text(self) -> str:
        lines = ["search " + " ".join(self.search)] if self.search else []
        lines += [f"nameserver {server}" for server in self.servers]
        if self.options:
            lines.append("options " + " ".join(self.options))
        return "\n".join(lines) + "\n"


def parse_resolv_conf(text: str) -> Resolver:
    """The last `search` (or `domain`) line counts, as in the C library; comments are dropped."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = re.split(r"[#;]", line, maxsplit=1)[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(words[1:])
        elif words[0] == "options":
            options.extend(words[1:])
    return Resolver(tuple(servers), search, tuple(options))


def _is_local(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True  # not an address: no use to a container


def usable_upstreams(host: Resolver, wished: Sequence[str]) -> tuple[str, ...]:
    """Servers that a container can reach: the wished ones, or the host's IPv4 ones that are not on its loopback."""
    if wished:
        return tuple(wished)
    found = tuple(server for server in host.servers if not _is_local(server) and ":" not in server)
    return found or FALLBACK_SERVERS


def container_resolver(
    host: Resolver, *, dns: Sequence[str], search: Sequence[str], options: Sequence[str], embedded: bool
) -> Resolver:
    """What a container's resolv.conf says. `search` of `.` alone means none."""
    servers = (EMBEDDED_DNS,) if embedded else usable_upstreams(host, dns)
    domains = () if list(search) == ["."] else tuple(search) or host.search
    words = tuple(options) or host.options
    if embedded and not any(word.startswith("ndots:") for word in words):
        words = (*words, "ndots:0")
    return Resolver(servers, domains, words)


def check_dns(dns: Iterable[str]) -> None:
    """Raises InvalidArgument for a server that is no IP address."""
    for server in dns:
        try:
            ipaddress.ip_address(server)
        except ValueError:
            raise InvalidArgument(f"{server} is not a valid IP address") from None
