"""Joining a lab's hosts into one swarm, the way a user would: by the docker CLI."""

import contextlib
import json
from collections.abc import Sequence

from lab.lab import Lab
from lab.paths import LabError
from lab.wait import until


def form(lab: Lab, *, members: Sequence[str] = (), timeout_s: float = 60.0) -> None:
    """`swarm init` on the first of `members` (all hosts), `swarm join` on the rest; returns when all are Ready."""
    state = lab.state()
    names = list(members or state.hosts)
    first = names[0]
    leader_address = state.hosts[first].address
    lab.docker(first, "swarm", "init", "--advertise-addr", leader_address)
    for name in names[1:]:
        host = state.hosts[name]
        token = lab.docker(first, "swarm", "join-token", "-q", host.role).strip()
        join = ("swarm", "join", "--token", token, "--advertise-addr", host.address, f"{leader_address}:2377")
        lab.docker(name, *join)
    wait_ready(lab, len(names), via=first, timeout_s=timeout_s)


def wait_ready(lab: Lab, count: int, *, via: str = "m1", timeout_s: float = 60.0) -> None:
    """Until the swarm has that many nodes, all Ready, and one leader; LabError with the last `node ls` if not."""

    def look() -> bool:
        with contextlib.suppress(LabError):  # no leader for the moment
            return all_ready(lab, via, count)
        return False

    try:
        until(look, timeout_s=timeout_s, what=f"{count} nodes to be Ready", interval_s=0.2)
    except LabError as error:
        raise LabError(f"{error}; last: {lab.docker(via, 'node', 'ls')}") from None


def nodes(lab: Lab, via: str) -> list[dict[str, str]]:
    """`docker node ls` as a list of its rows (ID, Hostname, Status, Availability, ManagerStatus, …)."""
    text = lab.docker(via, "node", "ls", "--format", "{{json .}}")
    return [json.loads(line) for line in text.splitlines()]


def all_ready(lab: Lab, via: str, count: int) -> bool:
    """Whether the swarm has that many nodes, all Ready, and one leader."""
    rows = nodes(lab, via)
    leaders = [row for row in rows if row["ManagerStatus"] == "Leader"]
    return len(rows) == count and all(row["Status"] == "Ready" for row in rows) and len(leaders) == 1
