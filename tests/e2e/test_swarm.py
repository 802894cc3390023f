"""A swarm of five hosts: what a user does with it by the docker CLI, and what faults must not break."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable

import pytest

from lab import swarm
from lab.lab import Lab
from lab.paths import LabError
from lab.wait import until
from tests.e2e.client import Docker
from tests.e2e.conftest import SPARE
from tests.e2e.managers import leader

HOSTS = ("m1", "m2", "m3", "w1", "w2")


def cli(lab: Lab, host: str = "m1") -> Docker:
    return Docker(lab.socket(host))


def tasks(lab: Lab, service: str, via: str = "m1") -> list[dict[str, str]]:
    """Rows of `service ps`."""
    return cli(lab, via).rows("service", "ps", "--no-trunc", service)


def running_on(lab: Lab, service: str, via: str = "m1") -> Counter[str]:
    """How many tasks each host runs, as the swarm sees it."""
    rows = tasks(lab, service, via)
    return Counter(
        row["Node"] for row in rows if row["CurrentState"].startswith("Running") and row["DesiredState"] == "Running"
    )


def wait_running(lab: Lab, service: str, count: int, *, via: str = "m1", timeout_s: float = 60) -> Counter[str]:
    def look() -> Counter[str] | None:
        try:
            found = running_on(lab, service, via)
        except AssertionError:  # no leader for the moment
            return None
        return found if found.total() == count else None

    try:
        return until(look, timeout_s=timeout_s, what=f"{count} running tasks of {service}", interval_s=0.2)
    except LabError as error:
        raise AssertionError(f"{error}\n{cli(lab, via).run('service', 'ps', service).out}") from None


def containers(lab: Lab, service: str, hosts: tuple[str, ...] = HOSTS) -> dict[str, list[str]]:
    """Running containers of a service on each host, as its engine sees them."""
    label = f"label=com.docker.swarm.service.name={service}"
    return {host: cli(lab, host).ok("ps", "-q", "--filter", label).split() for host in hosts}


def node_is(lab: Lab, host: str, status: str, via: str = "m1") -> Callable[[], bool]:
    return lambda: any(r["Hostname"] == host and r["Status"] == status for r in swarm.nodes(lab, via))


@pytest.mark.promise("nodes.list.b1", "swarm.init.b1", "swarm.join.b1")
def test_five_nodes_are_ready_and_one_leads(swarm_lab: Lab) -> None:
    rows = swarm.nodes(swarm_lab, "m2")
    assert sorted(row["Hostname"] for row in rows) == sorted(HOSTS)
    assert {row["Status"] for row in rows} == {"Ready"}
    managers = Counter(row["ManagerStatus"] for row in rows)
    assert managers == {"Leader": 1, "Reachable": 2, "": 2}
    refused = cli(swarm_lab, "w1").bad("node", "ls")
    assert "This node is not a swarm manager" in refused.err


@pytest.mark.promise("services.create.b1", "services.list.b1", "services.remove.b1", "tasks.list.b1")
def test_a_service_spreads_scales_and_goes(swarm_lab: Lab) -> None:
    docker = cli(swarm_lab)
    docker.ok("service", "create", "--name", "web", "--replicas", "6", "busybox", "sleep", "1d")
    spread = wait_running(swarm_lab, "web", 6)
    assert set(spread) == set(HOSTS)
    assert max(spread.values()) == 2
    real = containers(swarm_lab, "web")
    assert {host: len(ids) for host, ids in real.items()} == spread
    (row,) = docker.rows("service", "ls")
    assert (row["Name"], row["Replicas"]) == ("web", "6/6")

    cli(swarm_lab, "m2").ok("service", "scale", "web=2")
    wait_running(swarm_lab, "web", 2)
    until(lambda: sum(map(len, containers(swarm_lab, "web").values())) == 2, timeout_s=30, what="four to stop")
    docker.ok("service", "scale", "web=8")
    assert max(wait_running(swarm_lab, "web", 8).values()) == 2

    docker.ok("service", "rm", "web")
    assert docker.ok("service", "ls", "-q") == ""
    label = "label=com.docker.swarm.service.name=web"

    def none_left() -> bool:
        return not any(cli(swarm_lab, host).ok("ps", "-aq", "--filter", label) for host in HOSTS)

    until(none_left, timeout_s=40, what="the containers of a removed service to go")


@pytest.mark.promise("services.update.b1")
def test_a_rolling_update_replaces_one_task_at_a_time(swarm_lab: Lab) -> None:
    docker = cli(swarm_lab)
    create = ("service", "create", "--name", "roll", "--replicas", "4", "--update-parallelism", "1")
    docker.ok(*create, "--stop-grace-period", "1s", "busybox", "sleep", "1d")
    wait_running(swarm_lab, "roll", 4)
    old = {row["ID"] for row in tasks(swarm_lab, "roll")}
    cli(swarm_lab, "m3").ok("service", "update", "--env-add", "A=1", "roll")
    fewest = 4

    def rolled() -> bool:
        nonlocal fewest
        rows = [row for row in tasks(swarm_lab, "roll") if row["CurrentState"].startswith("Running")]
        fewest = min(fewest, len(rows))
        return len(rows) == 4 and not old & {row["ID"] for row in rows}

    until(rolled, timeout_s=90, what="all four to be replaced", interval_s=0.1)
    assert fewest >= 2, "more than one task was down at a time"
    for host, ids in containers(swarm_lab, "roll").items():
        for identity in ids:
            assert cli(swarm_lab, host).ok("exec", identity, "sh", "-c", "echo $A") == "1"
    rows = tasks(swarm_lab, "roll")
    assert {row["DesiredState"] for row in rows if row["ID"] in old} == {"Shutdown"}


@pytest.mark.promise("services.update.b2")
def test_an_out_of_date_version_changes_nothing(swarm_lab: Lab) -> None:
    docker = cli(swarm_lab)
    docker.ok("service", "create", "--name", "versioned", "--replicas", "1", "busybox", "sleep", "1d")
    service = docker.http("GET", "/v1.24/services/versioned").value
    spec = service["Spec"] | {"Labels": {"changed": "yes"}}
    index = service["Version"]["Index"]
    stale = docker.http("POST", f"/v1.24/services/{service['ID']}/update?version={index - 1}", spec)
    assert (stale.status, "update out of sequence" in stale.message) == (500, True)
    # The text of a missing version is our own; that it is refused is the document's word.
    assert docker.http("POST", f"/v1.24/services/{service['ID']}/update", spec).status in (400, 500)
    now = docker.http("GET", "/v1.24/services/versioned").value
    assert "changed" not in (now["Spec"].get("Labels") or {})
    assert (
        docker.http("POST", f"/v1.24/services/{service['ID']}/update?version={now['Version']['Index']}", spec).status
        == 200
    )


@pytest.mark.promise("services.create.b4", "services.create.status.409", "services.inspect.status.404")
def test_bad_requests_to_a_manager(swarm_lab: Lab) -> None:
    docker = cli(swarm_lab)
    docker.ok("service", "create", "--name", "once", "busybox", "sleep", "1d")
    assert docker.http("GET", "/v1.24/services/nosuch").status == 404
    spec = docker.http("GET", "/v1.24/services/once").value["Spec"]
    assert docker.http("POST", "/v1.24/services/create", spec).status == 409
    assert docker.http("POST", "/v1.24/services/create", '{"Name": 5}').status == 400
    assert docker.http("POST", "/v1.24/swarm/init", {"ListenAddr": "0.0.0.0:2377"}).status == 406
    assert docker.ok("service", "ls", "-q").count("\n") == 0


def test_a_join_with_a_wrong_token_is_refused(swarm_lab: Lab) -> None:
    token = cli(swarm_lab).ok("swarm", "join-token", "-q", "worker")
    head, root, secret = token.rsplit("-", 2)
    other_secret = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    other_root = root[:-1] + ("0" if root[-1] != "0" else "1")
    docker = cli(swarm_lab, SPARE)
    for bad in (f"{head}-{root}-{other_secret}", f"{head}-{other_root}-{secret}"):
        refused = docker.bad("swarm", "join", "--token", bad, "10.99.0.11:2377")
        assert refused.err.strip()
        assert docker.ok("info", "--format", "{{.Swarm.LocalNodeState}}") == "inactive"
    left = swarm_lab.run(SPARE, "sh", "-c", "find /var/lib/shoal/swarm -name '*.key' -o -name '*.crt'").stdout
    assert left == ""
    assert len(swarm.nodes(swarm_lab, "m1")) == 5


@pytest.mark.promise("nodes.update.b7")
def test_a_drained_node_gives_its_tasks_away(swarm_lab: Lab) -> None:
    docker = cli(swarm_lab)
    docker.ok("service", "create", "--name", "move", "--replicas", "5", "busybox", "sleep", "1d")
    assert "w1" in wait_running(swarm_lab, "move", 5)
    docker.ok("node", "update", "--availability", "drain", "w1")
    try:
        until(
            lambda: (found := running_on(swarm_lab, "move")).total() == 5 and "w1" not in found,
            timeout_s=60,
            what="the tasks of w1 to run elsewhere",
        )
        until(lambda: containers(swarm_lab, "move")["w1"] == [], timeout_s=30, what="w1 to stop its container")
    finally:
        docker.ok("node", "update", "--availability", "active", "w1")
    docker.ok("service", "scale", "move=8")
    assert "w1" in wait_running(swarm_lab, "move", 8)


def test_a_killed_leader_is_replaced(swarm_lab: Lab) -> None:
    cli(swarm_lab).ok("service", "create", "--name", "kept", "--replicas", "5", "busybox", "sleep", "1d")
    wait_running(swarm_lab, "kept", 5)
    first = leader(swarm_lab, "m1")
    assert first is not None
    others = [host for host in ("m1", "m2", "m3") if host != first]
    swarm_lab.kill(first)
    killed = time.monotonic()

    def replaced() -> str | None:
        found = leader(swarm_lab, others[0])
        return found if found != first else None

    second = until(replaced, timeout_s=10, what="a new leader")  # the aim is 3 s; a busy machine is given more
    print(f"a new leader after {time.monotonic() - killed:.1f} s")
    assert second in others
    follower = next(host for host in others if host != second)
    cli(swarm_lab, follower).ok("service", "update", "--label-add", "changed=yes", "--replicas", "6", "kept")
    wait_running(swarm_lab, "kept", 6, via=follower)
    swarm_lab.start(first)
    swarm.wait_ready(swarm_lab, 5)
    until(lambda: leader(swarm_lab, first), timeout_s=10, what="the one that came back to know the leader")
    labels = json.loads(cli(swarm_lab, first).ok("service", "inspect", "kept"))[0]["Spec"]["Labels"]
    assert labels["changed"] == "yes"


def test_the_tasks_of_a_dead_host_run_elsewhere(swarm_lab: Lab) -> None:
    docker = cli(swarm_lab)
    docker.ok("service", "create", "--name", "saved", "--replicas", "5", "busybox", "sleep", "1d")
    assert "w2" in wait_running(swarm_lab, "saved", 5)
    swarm_lab.power_off("w2")
    until(node_is(swarm_lab, "w2", "Down"), timeout_s=30, what="w2 to be seen as Down", interval_s=0.2)
    until(
        lambda: sum(map(len, containers(swarm_lab, "saved", ("m1", "m2", "m3", "w1")).values())) == 5,
        timeout_s=20,
        what="five containers on the hosts that are left",
    )
    swarm_lab.start("w2")
    swarm.wait_ready(swarm_lab, 5)
    assert containers(swarm_lab, "saved", ("w2",)) == {"w2": []}
    until(lambda: running_on(swarm_lab, "saved").total() == 5, timeout_s=30, what="the count to be right again")


def test_a_leader_cut_off_steps_down_and_comes_back(swarm_lab: Lab) -> None:
    first = leader(swarm_lab, "m1")
    assert first is not None
    others = [host for host in HOSTS if host != first]
    managers = [host for host in others if host.startswith("m")]
    swarm_lab.partition([first], others)
    until(lambda: leader(swarm_lab, managers[0]) in managers, timeout_s=20, what="a leader on the other side")
    assert cli(swarm_lab, first).run("service", "create", "--name", "lost", "busybox", "true", timeout_s=60).code != 0
    cli(swarm_lab, managers[1]).ok("service", "create", "--name", "won", "busybox", "sleep", "1d")
    swarm_lab.heal()
    swarm.wait_ready(swarm_lab, 5)
    until(
        lambda: [row["Name"] for row in cli(swarm_lab, first).rows("service", "ls")] == ["won"],
        timeout_s=30,
        what="the lone manager to learn what the others decided",
    )
