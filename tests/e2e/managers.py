"""What the tests of managers share: who leads, whether all is well, and a label that is written and read."""

from __future__ import annotations

import os

from lab import swarm
from lab.lab import Lab
from lab.paths import LabError
from tests.e2e.client import Docker

LONG = bool(os.environ.get("SHOAL_LONG"))
"""`script/lab scenario` sets it: the same scenarios, with more of everything."""
MANAGERS = ["m1", "m2", "m3"]


def cli(lab: Lab, host: str = "m1") -> Docker:
    return Docker(lab.socket(host))


def leader(lab: Lab, via: str) -> str | None:
    """Host name of the leader, None while there is none (or `via` can't tell)."""
    try:
        rows = swarm.nodes(lab, via)
    except LabError:
        return None
    found = [row["Hostname"] for row in rows if row["ManagerStatus"] == "Leader"]
    return found[0] if len(found) == 1 else None


def settled(lab: Lab, count: int, via: str = "m1", reachable: int = 3) -> bool:
    """All nodes Ready, one leader, and as many managers that can be reached."""
    try:
        rows = swarm.nodes(lab, via)
    except LabError:
        return False
    managers = [row["ManagerStatus"] for row in rows]
    return (
        len(rows) == count
        and all(row["Status"] == "Ready" for row in rows)
        and managers.count("Leader") == 1
        and managers.count("Leader") + managers.count("Reachable") == reachable
    )


def label(docker: Docker, value: str) -> bool:
    """Whether a write was acknowledged. (The CLI reads before it writes: somebody else's in between is no answer.)"""
    for _ in range(10):
        done = docker.run("node", "update", "--label-add", f"mark={value}", "m1")
        if "out of sequence" not in done.err:
            return done.code == 0
    return False


def mark(docker: Docker) -> str:
    return docker.ok("node", "inspect", "--format", '{{ index .Spec.Labels "mark" }}', "m1")
