"""The seam between scenarios and what a swarm is made of."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import Protocol

from lab.paths import LabError
from lab.wait import until

Done = subprocess.CompletedProcess[str]


class Cluster(Protocol):
    """Five hosts with shoald and a docker CLI. Every method raises LabError with the words of what failed."""

    managers: tuple[str, ...]
    workers: tuple[str, ...]

    def run(self, host: str, *argv: str, timeout_s: float = 60) -> Done:
        """Run a command on a host to its end, as root, with DOCKER_HOST set."""

    def address(self, host: str) -> str:
        """Where the other hosts reach it."""

    def kill(self, host: str) -> None:
        """kill -9 of shoald alone; returns when it is gone."""

    def start(self, host: str) -> None:
        """Start shoald."""

    def power_off(self, host: str) -> None:
        """Everything on the host ends at once; its disk stays."""

    def power_on(self, host: str) -> None:
        """The host comes back, and shoald with it."""

    def cut(self, host: str) -> None:
        """The other hosts and this one lose sight of each other."""

    def heal(self, host: str) -> None:
        """They see each other again."""


def hosts(cluster: Cluster) -> tuple[str, ...]:
    """All of them, managers first."""
    return (*cluster.managers, *cluster.workers)


def docker(cluster: Cluster, host: str, *argv: str) -> str:
    """The docker CLI on a host; returns its output. LabError with its words if it fails."""
    done = cluster.run(host, "docker", *argv)
    if done.returncode != 0:
        raise LabError(f"docker {' '.join(argv)} on {host}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def wait_answers(cluster: Cluster, host: str, *, timeout_s: float = 60) -> None:
    """Until the host's shoald answers."""
    until(
        lambda: cluster.run(host, "docker", "version").returncode == 0,
        timeout_s=timeout_s,
        what=f"shoald on {host} to answer",
        interval_s=0.2,
    )


def form(cluster: Cluster, *, timeout_s: float = 60) -> None:
    """Join the hosts into one swarm by the docker CLI; returns when all are ready. One that stands is left as it is."""
    first = cluster.managers[0]
    for host in hosts(cluster):
        wait_answers(cluster, host, timeout_s=timeout_s)
    if docker(cluster, first, "info", "--format", "{{.Swarm.LocalNodeState}}").strip() == "inactive":
        docker(cluster, first, "swarm", "init", "--advertise-addr", cluster.address(first))
    for host in hosts(cluster)[1:]:
        if docker(cluster, host, "info", "--format", "{{.Swarm.LocalNodeState}}").strip() != "inactive":
            continue
        role = "manager" if host in cluster.managers else "worker"
        token = docker(cluster, first, "swarm", "join-token", "-q", role).strip()
        own, leader = cluster.address(host), cluster.address(first)
        docker(cluster, host, "swarm", "join", "--token", token, "--advertise-addr", own, f"{leader}:2377")

    def ready() -> bool:
        with contextlib.suppress(LabError):
            rows = nodes(cluster, first)
            return len(rows) == len(hosts(cluster)) and all(row["Status"] == "Ready" for row in rows)
        return False

    until(ready, timeout_s=timeout_s, what="all nodes to be ready", interval_s=0.2)


def nodes(cluster: Cluster, via: str) -> list[dict[str, str]]:
    """The rows of `docker node ls`."""
    text = docker(cluster, via, "node", "ls", "--format", "{{json .}}")
    return [json.loads(line) for line in text.splitlines()]
