"""What really is on a host, to be compared with what its engine says. Run inside the host: prints JSON.

Standard library only. As a module it has the comparison: `differences(lab, docker)`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.lab import Lab
    from tests.e2e.client import Docker

DATA, RUN = Path("/var/lib/shoal"), Path("/run/shoal")


def look() -> dict[str, Any]:
    """Everything an engine makes on its host outside its records."""
    mounts = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    links = os.listdir("/sys/class/net") if Path("/sys/class/net/eth0").exists() else _links()
    return {
        "mounts": sorted(path for path in mounts if path.startswith((f"{DATA}/", f"{RUN}/"))),
        "netns": _names(RUN / "netns"),
        "links": sorted(link for link in links if link.startswith("sv")),
        "bridges": sorted(link for link in links if link.startswith("br-")),
        "cgroups": sorted({path.name for path in Path("/sys/fs/cgroup").glob("*/shoal/*") if path.is_dir()}),
        "containers": _names(DATA / "containers"),
        "volumes": _names(DATA / "volumes"),
        "bundles": _names(RUN / "bundles"),
        "runtime": _names(RUN / "crun"),
        "monitors": sorted(path.read_text().strip() for path in (RUN / "m").glob("*/id")),
        "execs": _names(RUN / "x"),
        "ports": _ports(),
        "processes": _processes(),
    }


def _names(path: Path) -> list[str]:
    return sorted(os.listdir(path)) if path.is_dir() else []


def _links() -> list[str]:
    shown = subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout
    return [link["ifname"] for link in json.loads(shown)]


def _ports() -> list[int]:
    shown = subprocess.run([sys.argv[1], "-j", "list", "ruleset"], capture_output=True, check=True).stdout
    maps = [each["map"] for each in json.loads(shown)["nftables"] if "map" in each]
    return sorted(key for each in maps if each["name"] == "tcp_any" for key, _ in each.get("elem", []))


def _processes() -> list[int]:
    """Main processes of containers: all that sleep. (What the test starts.)"""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"sleep\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return sorted(found)


def differences(lab: Lab, docker: Docker) -> list[str]:
    """Where records and reality differ, in words; empty when all is well."""
    from lab.paths import program

    real = json.loads(lab.run("m1", sys.executable, "-I", __file__, str(program("nft"))).stdout)
    listed = docker.http("GET", "/v1.24/containers/json?all=1").value
    containers = {each["Id"]: docker.http("GET", f"/v1.24/containers/{each['Id']}/json").value for each in listed}
    running = {key: each for key, each in containers.items() if each["State"]["Running"]}
    networks = docker.http("GET", "/v1.24/networks").value
    volumes = docker.http("GET", "/v1.24/volumes").value["Volumes"]
    endpoints = sorted((key, name) for key, each in running.items() for name in each["NetworkSettings"]["Networks"])
    members = sorted((key, network["Name"]) for network in networks for key in network["Containers"])
    published = [each["NetworkSettings"]["Ports"] for each in running.values()]
    said: dict[str, Any] = {
        "mounts": [
            *(f"{DATA}/containers/{key}/merged" for key in running),
            *(f"{RUN}/netns/{n}" for n in real["netns"]),
        ],
        "bridges": [f"br-{each['Id'][:12]}" for each in networks if each["Name"] not in ("bridge", "host", "none")],
        "cgroups": running,
        "containers": containers,
        "volumes": [each["Name"] for each in volumes],
        "runtime": running,
        "monitors": running,
        "execs": [],
        "ports": [int(binding["HostPort"]) for ports in published for each in ports.values() for binding in each or ()],
        "processes": [each["State"]["Pid"] for each in running.values()],
    }
    found = [f"{what}: said {sorted(s)}, real {real[what]}" for what, s in said.items() if sorted(s) != real[what]]
    for what, count in (("netns", len(running)), ("links", len(endpoints))):
        if len(real[what]) != count:
            found.append(f"{what}: said {count}, real {real[what]}")
    if not set(running) <= set(real["bundles"]) <= set(containers):  # one is kept until the next start or the end
        found.append(f"bundles: of containers {sorted(containers)}, real {real['bundles']}")
    if endpoints != members:
        found.append(f"endpoints: containers say {endpoints}, networks say {members}")
    return found


if __name__ == "__main__":
    json.dump(look(), sys.stdout)
