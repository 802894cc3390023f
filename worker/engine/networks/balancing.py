"""Pure nftables text of load balancing: virtual addresses in a client's namespace, published ports on the host and in
the gate of the routing mesh.

Each service has a chain of its own, reached by a verdict map; so a change of one service's backends is one small
transaction that touches nothing else, however many services there are. Nothing here rewrites a source address but the
gate, whose answers must come back to it. A virtual address or port without a backend is refused at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

TABLE = "shoal_lb"
GATE = "shoal_gate"

Backends = Mapping[str, Sequence[str]]
"""Virtual address to the addresses of those that serve it."""
Target = tuple[str, int]
"""(address, port)"""
Publications = Mapping[tuple[str, int], Sequence[Target]]
"""(protocol, port) to where its connections go; none: they are refused."""


def _spread(targets: Sequence[str]) -> str:
    """The rule that sends a new connection to one of the targets, by chance."""
    if len(targets) == 1:
        return f"dnat to {targets[0]}"
    elements = ", ".join(f"{number} : {target}" for number, target in enumerate(targets))
    return f"dnat to numgen random mod {len(targets)} map {{ {elements} }}"


def _spread_ports(targets: Sequence[Target]) -> str:
    if len(targets) == 1:
        return f"dnat to {targets[0][0]}:{targets[0][1]}"
    elements = ", ".join(f"{number} : {address} . {port}" for number, (address, port) in enumerate(targets))
    return f"dnat ip to numgen random mod {len(targets)} map {{ {elements} }}"


def chain_of(vip: str) -> str:
    return "v" + "".join(f"{int(part):02x}" for part in vip.split("."))


def whole_client(backends: Backends) -> str:
    """A client namespace's table, replaced in one transaction."""
    jumps = ", ".join(f"{vip} : jump {chain_of(vip)}" for vip, targets in backends.items() if targets)
    dead = ", ".join(vip for vip, targets in backends.items() if not targets)
    lines = [
        f"add table ip {TABLE}",
        f"delete table ip {TABLE}",
        f"table ip {TABLE} {{",
        *(f"  chain {chain_of(vip)} {{ {_spread(targets)}; }}" for vip, targets in backends.items() if targets),
        f"  map vips {{ type ipv4_addr : verdict; {_elements(jumps)} }}",
        f"  set dead {{ type ipv4_addr; {_elements(dead)} }}",
        "  chain output { type nat hook output priority -90; policy accept; ip daddr vmap @vips; }",
        "  chain refuse { type filter hook output priority 0; policy accept;",
        "    ip daddr @dead meta l4proto tcp reject with tcp reset",
        "    ip daddr @dead reject with icmp type port-unreachable",
        "  }",
        "}",
    ]
    return "\n".join(lines)


def _elements(text: str) -> str:
    return f"elements = {{ {text} }};" if text else ""


def change_client(before: Backends, after: Backends) -> str:
    """Commands from one state of a client's table to another; those that are in both and equal are left out."""
    lines: list[str] = []
    for vip, targets in after.items():
        had = before.get(vip)
        if had is not None and list(had) == list(targets):
            continue
        if had is not None:
            lines += _take_out(vip, had)
        if targets:
            chain = chain_of(vip)
            lines.append(f"add chain ip {TABLE} {chain}")
            lines.append(f"add rule ip {TABLE} {chain} {_spread(targets)}")
            lines.append(f"add element ip {TABLE} vips {{ {vip} : jump {chain} }}")
        else:
            lines.append(f"add element ip {TABLE} dead {{ {vip} }}")
    for vip, had in before.items():
        if vip not in after:
            lines += _take_out(vip, had)
    return "\n".join(lines)


def _take_out(vip: str, had: Sequence[str]) -> list[str]:
    if not had:
        return [f"delete element ip {TABLE} dead {{ {vip} }}"]
    chain = chain_of(vip)
    return [
        f"delete element ip {TABLE} vips {{ {vip} }}",
        f"flush chain ip {TABLE} {chain}",
        f"delete chain ip {TABLE} {chain}",
    ]


def whole_mesh(table: str, publications: Publications) -> str:
    """The host's table of the routing mesh, replaced in one transaction.

    It comes before the table of the containers' own published ports, and is no part of it: each is restored alone.
    """
    return "\n".join(
        (
            f"add table ip {table}",
            f"delete table ip {table}",
            f"table ip {table} {{",
            *_publication_parts(publications),
            "  chain publish { tcp dport vmap @by_tcp; udp dport vmap @by_udp; }",
            "  chain prerouting { type nat hook prerouting priority -101; policy accept;",
            "    ip daddr 127.0.0.0/8 return",
            "    fib daddr type local jump publish",
            "  }",
            "  chain output { type nat hook output priority -101; policy accept; fib daddr type local jump publish; }",
            "  chain input { type filter hook input priority -1; policy accept;",
            "    tcp dport @refused_tcp reject with tcp reset",
            "    udp dport @refused_udp reject with icmp type port-unreachable",
            "  }",
            "}",
        )
    )


def whole_gate(publications: Publications, outward: str) -> str:
    """The table of the gate's namespace: from the host's side to the backends, by the ingress network `outward`."""
    return "\n".join(
        (
            f"add table ip {GATE}",
            f"delete table ip {GATE}",
            f"table ip {GATE} {{",
            *_publication_parts(publications),
            "  chain prerouting { type nat hook prerouting priority -100; policy accept;",
            f'    iifname != "{outward}" tcp dport vmap @by_tcp',
            f'    iifname != "{outward}" udp dport vmap @by_udp',
            "  }",
            "  chain postrouting { type nat hook postrouting priority 100; policy accept;",
            f'    oifname "{outward}" ct status dnat masquerade',
            "  }",
            "  chain input { type filter hook input priority -1; policy accept;",
            "    tcp dport @refused_tcp reject with tcp reset",
            "    udp dport @refused_udp reject with icmp type port-unreachable",
            "  }",
            "}",
        )
    )


def change_publications(table: str, before: Publications, after: Publications) -> str:
    """Commands from one state of the host's or the gate's table to another; what is in both and equal is left out."""
    lines: list[str] = []
    for key, targets in after.items():
        had = before.get(key)
        if had is not None and list(had) == list(targets):
            continue
        if had and targets:
            lines += [f"flush chain ip {table} {_to(key)}", _publication_rule(table, key, targets)]
            continue
        if had is not None:
            lines += _unpublish(table, key, had)
        lines += _publish(table, key, targets)
    for key, had in before.items():
        if key not in after:
            lines += _unpublish(table, key, had)
    return "\n".join(lines)


def _to(key: tuple[str, int]) -> str:
    """The chain of a published port."""
    return f"to_{key[0]}{key[1]}"


def _publication_rule(table: str, key: tuple[str, int], targets: Sequence[Target]) -> str:
    return f"add rule ip {table} {_to(key)} meta l4proto {key[0]} {_spread_ports(targets)}"


def _publish(table: str, key: tuple[str, int], targets: Sequence[Target]) -> list[str]:
    protocol, port = key
    if not targets:
        return [f"add element ip {table} refused_{protocol} {{ {port} }}"]
    return [
        f"add chain ip {table} {_to(key)}",
        _publication_rule(table, key, targets),
        f"add element ip {table} by_{protocol} {{ {port} : jump {_to(key)} }}",
    ]


def _unpublish(table: str, key: tuple[str, int], had: Sequence[Target]) -> list[str]:
    protocol, port = key
    if not had:
        return [f"delete element ip {table} refused_{protocol} {{ {port} }}"]
    return [
        f"delete element ip {table} by_{protocol} {{ {port} }}",
        f"flush chain ip {table} {_to(key)}",
        f"delete chain ip {table} {_to(key)}",
    ]


def _publication_parts(publications: Publications) -> Iterable[str]:
    for (protocol, port), targets in publications.items():
        if targets:
            rule = _spread_ports(targets)
            yield f"  chain {_to((protocol, port))} {{ meta l4proto {protocol} {rule}; }}"
    for protocol in ("tcp", "udp"):
        served = [port for (name, port), targets in publications.items() if name == protocol and targets]
        refused = [port for (name, port), targets in publications.items() if name == protocol and not targets]
        jumps = ", ".join(f"{port} : jump {_to((protocol, port))}" for port in served)
        yield f"  map by_{protocol} {{ type inet_service : verdict; {_elements(jumps)} }}"
        yield f"  set refused_{protocol} {{ type inet_service; {_elements(', '.join(map(str, refused)))} }}"


def tokens(listing: str) -> list[str]:
    """A table's listing in a form that two listings of the same table share, whatever the order of elements."""
    return sorted(listing.replace(",", " ").split())
