"""The lab's network: a bridge inside the switch host, one port per host, and cuts between them.

Invariant: no link, address or rule is made in the machine's own network namespace; everything goes with the switch.
"""

import subprocess
from collections.abc import Iterable

from lab.hosts import joined, run_in
from lab.paths import LabError, base_environment, program, tool_environment
from lab.state import Cut, Host

BRIDGE = "lab0"
GATEWAY = "10.99.0.1"
REGISTRY = "10.99.0.250"
PREFIX = 24
MANAGERS_FROM, WORKERS_FROM = 11, 101


def address(role: str, number: int) -> str:
    """Address of the n-th (from 1) manager or worker: 10.99.0.11…, 10.99.0.101…."""
    start = MANAGERS_FROM if role == "manager" else WORKERS_FROM
    if not 1 <= number <= 80:
        raise LabError(f"at most 80 {role}s fit into a lab")
    return f"10.99.0.{start + number - 1}"


def hardware_address(ip: str) -> str:
    """MAC made from the address: after a power loss the neighbours' ARP entries stay right."""
    return "02:99:" + ":".join(f"{int(part):02x}" for part in ip.split("."))


def make_switch(lab: str, switch: Host) -> None:
    """The bridge, inside the switch host."""
    _batch(
        lab,
        switch,
        [
            "link set lo up",
            f"link add {BRIDGE} type bridge forward_delay 0 stp_state 0",
            f"addr add {GATEWAY}/{PREFIX} dev {BRIDGE}",
            f"link set {BRIDGE} up",
        ],
    )


def plug(lab: str, switch: Host, host: Host) -> None:
    """Join a host to the bridge: port named after the host, `eth0` inside."""
    assert host.init is not None
    existing = run_in(lab, switch, ["ip", "-o", "link", "show"])
    if f" {host.name}@" in existing:  # left by a host that lost its power a moment ago
        _batch(lab, switch, [f"link del {host.name}"])
    mac = hardware_address(host.address)
    _batch(
        lab,
        switch,
        [
            f"link add {host.name} type veth peer name eth0 address {mac} netns /proc/{host.init.pid}/ns/net",
            f"link set {host.name} master {BRIDGE} up",
        ],
        # The switch's own /proc does not know the host's number: only its network namespace is entered.
        net_only=True,
    )
    _batch(
        lab,
        host,
        [
            "link set lo up",
            f"addr add {host.address}/{PREFIX} dev eth0",
            "link set eth0 up",
            f"route add default via {GATEWAY}",
        ],
    )


def cuts_between(left: Iterable[str], right: Iterable[str], *, one_way: bool = False) -> list[Cut]:
    """The cuts that part two groups of hosts; one way: only what goes from left to right is dropped."""
    pairs = [(a, b) for a in left for b in right]
    for a, b in pairs:
        if a == b:
            raise LabError(f"{a} stands on both sides of the partition")
    cuts = {Cut(a, b) for a, b in pairs}
    if not one_way:
        cuts |= {Cut(b, a) for a, b in pairs}
    return sorted(cuts)


def ruleset(cuts: Iterable[Cut]) -> str:
    """nft script that makes the switch drop exactly these, whatever was there before, in one transaction."""
    rules = "".join(f'        iifname "{c.source}" oifname "{c.target}" drop\n' for c in sorted(cuts))
    return (
        "table bridge lab {}\ndelete table bridge lab\ntable bridge lab {\n    chain forward {\n"
        f"        type filter hook forward priority 0; policy accept;\n{rules}    }}\n}}\n"
    )


def apply_cuts(lab: str, switch: Host, cuts: Iterable[Cut]) -> None:
    """Make the switch drop exactly these."""
    done = subprocess.run(
        joined(lab, switch, [str(program("nft")), "-f", "-"]),
        input=ruleset(cuts),
        capture_output=True,
        text=True,
        env=base_environment() | tool_environment(),
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"nft: {done.stderr.strip()}")


def _batch(lab: str, host: Host, lines: list[str], *, net_only: bool = False) -> None:
    """Several `ip` commands in one process inside a host."""
    assert host.init is not None
    command = ["ip", "-batch", "-"]
    inside = ["nsenter", "--target", str(host.init.pid), "--net", "--", *command] if net_only else None
    done = subprocess.run(
        inside or joined(lab, host, command),
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        env=base_environment(),
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"network of {host.name}: {done.stderr.strip()}")
