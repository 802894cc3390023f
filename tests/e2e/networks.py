"""What the tests of swarm networks share: services that answer, clients on every host, and what they see there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.lab import Lab
from lab.wait import until
from tests.e2e.test_swarm import HOSTS, cli, wait_running

NET = "net"
HEALED_S = 30
"""After a fault has ended, everything is right within this time."""
LONG = bool(os.environ.get("SHOAL_LONG"))
long_only = pytest.mark.skipif(not LONG, reason="long: set SHOAL_LONG=1")
APP = (
    "mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho; echo $REMOTE_ADDR $(hostname)\\n' > /www/cgi-bin/who; "
    "chmod +x /www/cgi-bin/who; trap 'sleep 1; exit 0' TERM; httpd -f -p 80 -h /www & wait"
)
"""Says who asked and who answers; when it is told to stop, it serves on for a moment, as a well-behaved server does."""


def rounds(short: int, long: int) -> int:
    """How often a scenario does its thing, in CI and in full; SHOAL_ROUNDS overrides both."""
    return int(os.environ.get("SHOAL_ROUNDS") or (long if LONG else short))


@contextmanager
def overlay(lab: Lab, name: str = NET) -> Iterator[str]:
    """An overlay network; it and all services are removed at the end."""
    cli(lab).ok("network", "create", "-d", "overlay", name)
    yield name
    remove_services(lab)
    until(lambda: cli(lab).run("network", "rm", name).code == 0, timeout_s=40, what=f"{name} to be unused")


def remove_services(lab: Lab) -> None:
    names = cli(lab).ok("service", "ls", "-q").split()
    if names:
        cli(lab).ok("service", "rm", *names)


def web(lab: Lab, name: str, *args: str, replicas: int = 3) -> None:
    cli(lab).ok("service", "create", "--name", name, "--replicas", str(replicas), *args, "busybox", "sh", "-c", APP)
    wait_running(lab, name, replicas)


def clients(lab: Lab, network: str, name: str = "cli") -> dict[str, str]:
    """A container on the network on each host: host to container."""
    sleeper = ("busybox", "sh", "-c", "trap 'exit 0' TERM; sleep 1d & wait")
    cli(lab).ok("service", "create", "--name", name, "--network", network, "--mode", "global", *sleeper)
    wait_running(lab, name, len(HOSTS))
    label = f"label=com.docker.swarm.service.name={name}"
    return {host: cli(lab, host).ok("ps", "-q", "--filter", label) for host in HOSTS}


def addresses(lab: Lab, service: str, network: str = "net") -> dict[str, str]:
    """Name to address on the network, of the tasks that run and are meant to."""
    answer = cli(lab).http("GET", '/v1.24/tasks?filters={"desired-state":["running"],"service":["' + service + '"]}')
    assert answer.status == 200, answer.message
    found = {}
    for task in answer.value:
        if task["Status"]["State"] == "running":
            for place in task["NetworksAttachments"]:
                if place["Network"]["Spec"]["Name"] == network:
                    found[task["Name"]] = place["Addresses"][0].partition("/")[0]
    return found


def vip(lab: Lab, service: str, network: str = "net") -> str:
    network_id = cli(lab).ok("network", "inspect", "--format", "{{.Id}}", network)
    vips = cli(lab).http("GET", f"/v1.24/services/{service}").value["Endpoint"]["VirtualIPs"]
    (found,) = [each["Addr"].partition("/")[0] for each in vips if each["NetworkID"] == network_id]
    return str(found)


def resolve(lab: Lab, host: str, container: str, name: str) -> set[str]:
    """What a name leads to inside a container; empty for nothing."""
    done = cli(lab, host).run("exec", container, "nslookup", "-type=a", name)
    return set(re.findall(r"Address: (\d+\.\d+\.\d+\.\d+)\s", done.out + "\n"))


def get(lab: Lab, host: str, container: str, url: str) -> str:
    """What a GET from inside a container says; empty if nothing answers."""
    return cli(lab, host).run("exec", container, "timeout", "3", "wget", "-q", "-O", "-", url).out.strip()


def backends(lab: Lab, host: str, container: str, service_vip: str) -> set[str]:
    """Where a container's own table sends connections to a virtual address, as the kernel says."""
    pid = cli(lab, host).inspect(container)["State"]["Pid"]
    chain = "v" + "".join(f"{int(part):02x}" for part in service_vip.split("."))
    listed = lab.run(host, "nsenter", "-t", str(pid), "-n", "nft", "list", "chain", "ip", "shoal_lb", chain)
    return set(re.findall(r"(\d+\.\d+\.\d+\.\d+)", listed.stdout))


def check(lab: Lab, host: str) -> dict[str, Any]:
    """The answer of `shoald debug network-check`."""
    answer = cli(lab, host).http("POST", "/debug/network-check")
    assert answer.status == 200, answer.message
    return dict(answer.value)


def wait_backends(lab: Lab, host: str, container: str, service: str, timeout_s: float = 5) -> None:
    """Until a container's table holds just the tasks of the service that run."""
    address = vip(lab, service)

    def look() -> bool:
        return backends(lab, host, container, address) == set(addresses(lab, service).values())

    until(look, timeout_s=timeout_s, what=f"the table on {host} to hold the running tasks of {service}, and no others")


def wait_published(lab: Lab, host: str, port: int, timeout_s: float = 5) -> None:
    """Until a published port answers on a host, several times in a row."""
    url = f"http://127.0.0.1:{port}/cgi-bin/who"
    until(lambda: all(fetched(lab, host, url, 3)), timeout_s=timeout_s, what=f"port {port} on {host}")


def fetched(lab: Lab, host: str, url: str, times: int = 1) -> list[str]:
    """GETs by a client on a lab host; an empty text for each that failed."""
    script = (
        "import sys, urllib.request as u\no = u.build_opener(u.ProxyHandler({}))\n"
        "for _ in range(int(sys.argv[2])):\n"
        " try: print(o.open(sys.argv[1], timeout=3).read().decode().strip())\n"
        " except OSError as e: print()"
    )
    return lab.run(host, sys.executable, "-I", "-c", script, url, str(times)).stdout.split("\n")[:times]


def wait_updated(lab: Lab, service: str) -> None:
    def done() -> bool:
        status = cli(lab).http("GET", f"/v1.24/services/{service}").value.get("UpdateStatus") or {}
        return status.get("State") == "completed"

    until(done, timeout_s=60, what=f"the update of {service} to be completed", interval_s=0.2)


HEALTHY = {"DesiredIndex": 0, "AppliedIndex": 0, "Lag": 0, "Repairs": [], "Failures": []}


def client_on(lab: Lab, host: str) -> str:
    """A client that runs on the host, as soon as there is one."""
    label = "label=com.docker.swarm.service.name=cli"
    found = until(
        lambda: cli(lab, host).ok("ps", "-q", "--filter", label) or None, timeout_s=30, what=f"a client on {host}"
    )
    return found.partition("\n")[0]


NOTHING: dict[str, list[str]] = {"links": [], "namespaces": [], "tables": []}


def left_over(lab: Lab, host: str) -> dict[str, list[str]]:
    """What networking has made on a host."""
    links = lab.run(host, "ip", "-o", "link").stdout
    listing = lab.run(host, "sh", "-c", "ls /run/shoal/overlay /run/shoal/netns 2>/dev/null").stdout
    tables = lab.run(host, "nft", "list", "tables").stdout
    return {
        "links": re.findall(r"(sv[0-9a-f]{12}|shvx\d+)", links),
        "namespaces": [line for line in listing.split() if not line.startswith("/")],
        "tables": re.findall(r"shoal_\w+_mesh", tables),
    }


def wait_left_over(lab: Lab, host: str, wanted: dict[str, list[str]]) -> None:
    """Until a host has just this."""
    until(lambda: left_over(lab, host) == wanted, timeout_s=20, what=f"nothing but {wanted} to be left on {host}")
