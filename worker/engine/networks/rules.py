"""Pure nftables text: one table per daemon (`ip shoal_<suffix>`), which is all this daemon ever touches.

Published ports live in four maps, so that one attach adds elements and nothing else; all that depends on which
bridges exist is rewritten as one atomic transaction when a bridge comes or goes.

- `prerouting`/`output` send new connections to addresses of this host through the maps (dnat).
- Packets to 127.0.0.0/8 are never taken in from a wire: `route_localnet` on our bridges would else open the host's
  loopback to containers.
- `forward` isolates bridges from one another and from outside; what was sent here by a published port may pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from worker.engine.networks.records import PublishedPort

ANY = "0.0.0.0"
CHAINS = ("publish", "guard", "prerouting", "output", "postrouting", "forward")
"""All chains of the table."""


@dataclass(frozen=True)
class BridgeRules:
    """What the rule set needs to know of a bridge network."""

    link: str
    subnet: str
    internal: bool = False
    icc: bool = True
    masquerade: bool = True


def table_name(data_root: str) -> str:
    """The daemon's own table: daemons on one host differ by data root."""
    return "shoal_" + hashlib.sha256(data_root.encode()).hexdigest()[:8]


def _element(port: PublishedPort) -> tuple[str, str]:
    """(map, key) of a published port."""
    if port.host_ip == ANY:
        return f"{port.protocol}_any", str(port.host_port)
    return f"{port.protocol}_at", f"{port.host_ip} . {port.host_port}"


def publish(table: str, ports: Iterable[PublishedPort]) -> str:
    """Commands that add ports to the maps."""
    lines = []
    for port in ports:
        name, key = _element(port)
        lines.append(f"add element ip {table} {name} {{ {key} : {port.container_ip} . {port.container_port} }}")
    return "\n".join(lines)


def unpublish(table: str, ports: Iterable[PublishedPort]) -> str:
    """Commands that take ports out of the maps. Adding first makes the removal idempotent."""
    lines = [publish(table, ports)]
    for port in ports:
        name, key = _element(port)
        lines.append(f"delete element ip {table} {name} {{ {key} }}")
    return "\n".join(lines)


def remove_table(table: str) -> str:
    """Take all away, also if nothing is there."""
    return f"add table ip {table}\ndelete table ip {table}"


def whole_table(table: str, bridges: Iterable[BridgeRules], ports: Iterable[PublishedPort]) -> str:
    """The full rule set as one transaction that replaces what was there."""
    bridges = list(bridges)
    return "\n".join(
        (
            remove_table(table),
            f"table ip {table} {{",
            *_maps(ports),
            _chain("publish", "", _publish_rules()),
            _chain("guard", "type filter hook prerouting priority -300; policy accept;", _raw_rules(bridges)),
            _chain("prerouting", "type nat hook prerouting priority -100; policy accept;", _prerouting_rules()),
            _chain("output", "type nat hook output priority -100; policy accept;", _output_rules()),
            _chain("postrouting", "type nat hook postrouting priority 100; policy accept;", _source_rules(bridges)),
            _chain("forward", "type filter hook forward priority 0; policy accept;", _forward_rules(bridges)),
            "}",
        )
    )


def _chain(name: str, head: str, rules: Iterable[str]) -> str:
    return "\n".join((f"  chain {name} {{", *([f"    {head}"] if head else ()), *(f"    {r}" for r in rules), "  }"))


def _maps(ports: Iterable[PublishedPort]) -> Iterable[str]:
    elements: dict[str, list[str]] = {}
    for port in ports:
        name, key = _element(port)
        elements.setdefault(name, []).append(f"{key} : {port.container_ip} . {port.container_port}")
    for protocol in ("tcp", "udp", "sctp"):
        for suffix, key_type in (("any", "inet_service"), ("at", "ipv4_addr . inet_service")):
            name = f"{protocol}_{suffix}"
            content = f" elements = {{ {', '.join(elements[name])} }};" if name in elements else ""
            yield f"  map {name} {{ type {key_type} : ipv4_addr . inet_service;{content} }}"


def _publish_rules() -> Iterable[str]:
    for protocol in ("tcp", "udp", "sctp"):
        yield f"meta l4proto {protocol} dnat ip to ip daddr . {protocol} dport map @{protocol}_at"
        yield f"meta l4proto {protocol} dnat ip to {protocol} dport map @{protocol}_any"


def _raw_rules(bridges: list[BridgeRules]) -> Iterable[str]:
    for bridge in bridges:
        yield f'iifname "{bridge.link}" ip daddr 127.0.0.0/8 drop'


def _prerouting_rules() -> Iterable[str]:
    yield "ip daddr 127.0.0.0/8 return"
    yield "fib daddr type local jump publish"


def _output_rules() -> Iterable[str]:
    yield "fib daddr type local jump publish"


def _source_rules(bridges: list[BridgeRules]) -> Iterable[str]:
    for bridge in bridges:
        if bridge.internal:
            continue
        if bridge.masquerade:
            yield f'ip saddr {bridge.subnet} oifname != "{bridge.link}" masquerade'
        yield f'ip saddr 127.0.0.0/8 oifname "{bridge.link}" masquerade'
        # A container that comes back to its own network by the host's address must answer through the host.
        yield f'ip saddr {bridge.subnet} oifname "{bridge.link}" ct status dnat masquerade'


def _forward_rules(bridges: list[BridgeRules]) -> Iterable[str]:
    if not bridges:
        return
    ours = ", ".join(f'"{bridge.link}"' for bridge in bridges)
    for bridge in bridges:
        if bridge.internal:
            yield f'iifname "{bridge.link}" oifname != "{bridge.link}" drop'
            yield f'oifname "{bridge.link}" iifname != "{bridge.link}" drop'
    yield f"oifname {{ {ours} }} ct state established,related accept"
    yield f"oifname {{ {ours} }} ct status dnat accept"
    for bridge in bridges:
        if bridge.icc:
            yield f'iifname "{bridge.link}" oifname "{bridge.link}" accept'
    yield f"oifname {{ {ours} }} drop"
    yield f"iifname {{ {ours} }} accept"


def resolver_table(udp_port: int, tcp_port: int) -> str:
    """Inside a container's namespace: 127.0.0.11:53 leads to the embedded DNS server's free ports. Replaces itself."""
    return "\n".join(
        (
            remove_table("shoal_dns"),
            "table ip shoal_dns {",
            _chain(
                "output",
                "type nat hook output priority -100; policy accept;",
                (
                    f"ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:{udp_port}",
                    f"ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:{tcp_port}",
                ),
            ),
            "}",
        )
    )
