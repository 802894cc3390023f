"""The one invariant of swarm networks, as every fault scenario states it.

On every host: each service's name leads to its virtual address, `tasks.<name>` to its tasks; the virtual address and
each task take connections; the balancing table, the forwarding and the neighbour entries in the kernel are what the
managers' tasks say, no more and no less; and the engine's own comparison finds nothing to repair.

Seen from a client container on each host (the global service `cli`). What the managers say is read by their API, what
the kernel has by `nft`, `ip` and `bridge`: nothing of the engine is asked but its last word, which must not come first,
since it repairs what it finds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from lab.lab import Lab
from lab.paths import LabError
from lab.wait import until
from tests.e2e.networks import APP, HEALTHY, check
from tests.e2e.test_swarm import HOSTS, cli, wait_running

CLIENTS = "cli"
CLIENT_FILTER = json.dumps({"label": [f"com.docker.swarm.service.name={CLIENTS}"]})

PROBE = r"""
import ctypes, json, os, socket, struct, subprocess, sys
plan = json.loads(sys.argv[1])
def enter(path):
    with open(path) as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
            raise OSError(ctypes.get_errno(), path)
def listed(*argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    return json.loads(done.stdout) if done.stdout else None
def resolve(name):
    ask = struct.pack(">6H", 7, 256, 1, 0, 0, 0) + b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(2)
        s.sendto(ask + struct.pack(">BHH", 0, 1, 1), ("127.0.0.11", 53))
        try: answer = s.recv(65000)
        except OSError as error: return [repr(error)]
    count, at = struct.unpack_from(">H", answer, 6)[0], len(ask) + 5
    found = []
    for _ in range(count):
        at += 12 if answer[at] >= 192 else answer.index(0, at) - at + 11
        size = struct.unpack_from(">H", answer, at - 2)[0]
        found.append(socket.inet_ntoa(answer[at:at + 4]) if size == 4 else "?")
        at += size
    return found
def connect(address):
    with socket.socket() as s:
        s.settimeout(2)
        try: s.connect((address, 80)); return ""
        except OSError as error: return repr(error)
enter(plan["overlay"])
entries = (listed("ip", "-j", "neigh", "show", "dev", "vxlan0", "nud", "permanent") or [])
entries += (listed("bridge", "-j", "fdb", "show", "dev", "vxlan0") or [])
enter("/proc/%d/ns/net" % plan["pid"])
print(json.dumps({
    "entries": entries,
    "table": (listed("nft", "-j", "list", "table", "ip", "shoal_lb") or {}).get("nftables", []),
    "names": {name: resolve(name) for name in plan["names"]},
    "connects": {address: connect(address) for address in plan["addresses"]},
}))
"""


@dataclass
class Truth:
    """What the managers say of one network."""

    network_id: str
    names: dict[str, set[str]] = field(default_factory=dict)
    vips: dict[str, set[str]] = field(default_factory=dict)
    """Virtual address to the tasks that serve it."""
    places: dict[str, str] = field(default_factory=dict)
    """Address of every task that is on a node, serving or not, to its host."""


def truth(lab: Lab, network: str, via: str) -> Truth:
    """As the managers' API has it now."""
    docker = cli(lab, via)

    def ask(path: str) -> list[dict[str, Any]]:
        answer = docker.http("GET", f"/v1.24/{path}")
        if answer.status != 200:
            raise LabError(f"GET {path}: {answer.status} {answer.body.decode()}")
        return list(answer.value)

    (network_id,) = [each["Id"] for each in ask("networks") if each["Name"] == network]
    nodes = {node["ID"]: node for node in ask("nodes")}
    tasks = ask("tasks")
    found = Truth(network_id)
    for service in ask("services"):
        vips = [v["Addr"].partition("/")[0] for v in service["Endpoint"].get("VirtualIPs") or []
                if v["NetworkID"] == network_id]  # fmt: skip
        if not vips:
            continue
        name, serving = service["Spec"]["Name"], set()
        for task in tasks:
            if task["ServiceID"] != service["ID"] or not task.get("NodeID"):
                continue
            address = _address(task, network_id)
            node = nodes.get(task["NodeID"])
            if not address or node is None or task["Status"]["State"] in ENDED:
                continue
            found.places[address] = node["Description"]["Hostname"]
            alive = node["Status"]["State"] != "down"
            if alive and task["Status"]["State"] == "running" and task["DesiredState"] in ("ready", "running"):
                serving.add(address)
        found.vips[vips[0]] = serving
        found.names |= {name: {vips[0]}, f"tasks.{name}": serving}
    return found


ENDED = {"new", "pending", "complete", "failed", "shutdown", "rejected", "orphaned", "remove"}


def _address(task: dict[str, Any], network_id: str) -> str:
    for place in task.get("NetworksAttachments") or []:
        if place["Network"]["ID"] == network_id and place["Addresses"]:
            return str(place["Addresses"][0]).partition("/")[0]
    return ""


def join_clients(lab: Lab, *networks: str) -> None:
    """A client on each host, that can be asked like any other service."""
    attach = [word for network in networks for word in ("--network", network)]
    cli(lab).ok(
        "service", "create", "--name", CLIENTS, *attach, "--mode", "global", "--restart-delay", "0s",
        "busybox", "sh", "-c", APP,
    )  # fmt: skip
    wait_running(lab, CLIENTS, len(HOSTS))


def client(lab: Lab, host: str) -> tuple[str, int]:
    """The client of a host: (container, process in the host). LabError while there is none."""
    docker = cli(lab, host)
    found = docker.http("GET", f"/v1.24/containers/json?filters={quote(CLIENT_FILTER)}").value
    if not found:
        raise LabError(f"no client on {host}")
    answer = docker.http("GET", f"/v1.24/containers/{found[0]['Id']}/json")
    if answer.status != 200:
        raise LabError(f"the client on {host} has ended")
    return found[0]["Id"], int(answer.value["State"]["Pid"])


def deviations(lab: Lab, network: str, host: str, wanted: Truth, *, connect: bool = True) -> list[str]:
    """Where a host differs from the truth, one line each."""
    try:
        _, pid = client(lab, host)
    except LabError as error:
        return [str(error)]
    reach = sorted({*wanted.vips, *(a for serving in wanted.vips.values() for a in serving)}) if connect else []
    overlay = f"/run/shoal/overlay/{wanted.network_id}"
    plan = json.dumps({"pid": pid, "overlay": overlay, "names": sorted(wanted.names), "addresses": reach})
    done = lab.run(host, sys.executable, "-I", "-c", PROBE, plan)
    if done.returncode:
        return [f"{host}: {done.stderr.strip()[-300:]}"]
    seen = json.loads(done.stdout)
    wrong = [
        f"{host}: {name} leads to {sorted(seen['names'][name])}, should to {sorted(addresses)}"
        for name, addresses in wanted.names.items()
        if set(seen["names"][name]) != addresses
    ]
    wrong += [f"{host}: {address} does not answer: {error}" for address, error in seen["connects"].items() if error]
    table = _balancing(seen["table"])
    here = {vip: serving for vip, serving in wanted.vips.items() if table.get(vip) != serving}
    wrong += [f"{host}: table has {vip} -> {table.get(vip)}, should be {serving}" for vip, serving in here.items()]
    return wrong + _peers(lab, host, wanted, seen["entries"])


def _balancing(listed: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Virtual address to backends, of a table's listing."""
    chains: dict[str, set[str]] = {}
    found: dict[str, set[str]] = {}
    for item in listed:
        if "rule" in item and item["rule"]["chain"].startswith("v"):
            text = json.dumps(item["rule"]["expr"])
            chains.setdefault(item["rule"]["chain"], set()).update(w for w in text.split('"') if w.count(".") == 3)
    for item in listed:
        for element in item.get("map", {}).get("elem", []):
            found[element[0]] = chains.get(element[1]["jump"]["target"], set())
        for element in item.get("set", {}).get("elem", []):
            found[element] = set()
    return found


def _peers(lab: Lab, host: str, wanted: Truth, entries: list[dict[str, Any]]) -> list[str]:
    """Forwarding and neighbour entries of the network on this host, beside the tasks of the other hosts."""
    neighbours = {entry["dst"] for entry in entries if "lladdr" in entry}
    forwarding = {entry["mac"]: entry["dst"] for entry in entries if "mac" in entry and "dst" in entry}
    should = {address: lab.host(there).address for address, there in wanted.places.items() if there != host}
    hardware = {_hardware(address): node for address, node in should.items()}
    wrong = []
    if neighbours != set(should):
        wrong.append(f"{host}: neighbours {sorted(neighbours)}, should be {sorted(should)}")
    if forwarding != hardware:
        wrong.append(f"{host}: forwarding {forwarding}, should be {hardware}")
    return wrong


def _hardware(address: str) -> str:
    return "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def wait_true(
    lab: Lab,
    *networks: str,
    timeout_s: float,
    hosts: Sequence[str] = HOSTS,
    via: str = "m1",
    connect: bool = True,
    final: bool = True,
) -> None:
    """Until all hosts are right, every network at once. AssertionError with what is wrong at the deadline.

    Args:
        connect: addresses are connected to, not only looked at.
        final: ask the engines at the end, who must find nothing to repair.
    """
    last: list[str] = []

    def look() -> bool:
        nonlocal last
        last = []
        try:
            for network in networks:
                wanted = truth(lab, network, via)
                with ThreadPoolExecutor(len(hosts)) as pool:
                    for found in pool.map(lambda h: deviations(lab, network, h, wanted, connect=connect), hosts):  # noqa: B023
                        last += found
        except LabError as error:  # no leader for the moment
            last = [str(error)]
        return not last

    try:
        until(look, timeout_s=timeout_s, what="all hosts to agree with the managers")
    except LabError as error:
        raise AssertionError("\n".join([str(error), *last])) from None
    if final:
        for host in hosts:
            report = check(lab, host)
            assert report | {"DesiredIndex": 0, "AppliedIndex": 0} == HEALTHY, f"{host}: {report}"
