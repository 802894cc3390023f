"""Joining a lab's hosts into one swarm, the way a user would: by the docker CLI."""

import json

from lab.lab import Lab
from lab.wait import until


def form(lab: Lab, *, timeout_s: float = 60.0) -> None:
    """`swarm init` on m1, `swarm join` on the others with the right token; returns when all are Ready."""
    state = lab.state()
    names = list(state.hosts)
    first = names[0]
    leader_address = state.hosts[first].address
    lab.docker(first, "swarm", "init", "--advertise-addr", leader_address)
    for name in names[1:]:
        host = state.hosts[name]
        token = lab.docker(first, "swarm", "join-token", "-q", host.role).strip()
        join = ("swarm", "join", "--token", token, "--advertise-addr", host.address, f"{leader_address}:2377")
        lab.docker(name, *join)
    until(lambda: all_ready(lab, first, len(names)), timeout_s=timeout_s, what="all nodes to be Ready", interval_s=0.2)


def nodes(lab: Lab, via: str) -> list[dict[str, str]]:
    """`docker node ls` as a list of its rows (ID, Hostname, Status, Availability, ManagerStatus, …)."""
    text = lab.docker(via, "node", "ls", "--format", "{{json .}}")
    return [json.loads(line) for line in text.splitlines()]


def all_ready(lab: Lab, via: str, count: int) -> bool:
    """Whether the swarm has that many nodes, all Ready, and one leader."""
    rows = nodes(lab, via)
    leaders = [row for row in rows if row["ManagerStatus"] == "Leader"]
    return len(rows) == count and all(row["Status"] == "Ready" for row in rows) and len(leaders) == 1
