"""Services through faults, each a named scenario: exact counts after it, and nothing twice."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab import swarm
from lab.lab import Lab
from lab.paths import VENV_BIN
from lab.wait import until
from tests.e2e.client import Docker
from tests.e2e.services import Json, Swarm, spec
from tests.e2e.test_swarm import HOSTS, containers, leader, node_is

SEED = random.randrange(2**32)


@pytest.fixture
def brisk(swarm_lab: Lab) -> Iterator[Lab]:
    """The swarm with a heartbeat of a second: nodes are down after three."""
    docker = Docker(swarm_lab.socket("m1"))
    docker.ok("swarm", "update", "--dispatcher-heartbeat", "1s")
    yield swarm_lab
    docker.ok("swarm", "update", "--dispatcher-heartbeat", "5s")


def replicas(count: int) -> Json:
    return {"Mode": {"Replicated": {"Replicas": count}}}


def total(lab: Lab, service: str) -> int:
    """Containers that run, by the engines' own account."""
    return sum(map(len, containers(lab, service).values()))


def until_exact(lab: Lab, service: str, count: int, via: str = "m1", timeout_s: float = 40) -> list[Json]:
    """Until the swarm says so and the engines agree."""
    tasks = Swarm(lab, via).running(service, count, timeout_s)
    until(lambda: total(lab, service) == count, timeout_s=30, what=f"{count} containers of {service}, no more")
    return tasks


def test_a_worker_paused_for_less_than_its_grace_loses_nothing(brisk: Lab) -> None:
    api = Swarm(brisk)
    api.create(spec("still", **replicas(5)))
    before = {task["ID"] for task in until_exact(brisk, "still", 5)}
    brisk.kill("w1", signal.SIGSTOP)
    try:
        time.sleep(1.5)
    finally:
        brisk.kill("w1", signal.SIGCONT)
    time.sleep(2)  # a node that was given up would have lost its tasks by now
    assert {task["ID"] for task in until_exact(brisk, "still", 5)} == before


def test_a_worker_paused_for_longer_loses_its_tasks_and_has_no_duplicates_after(brisk: Lab) -> None:
    api = Swarm(brisk)
    api.create(spec("moved", **replicas(10)))
    until_exact(brisk, "moved", 10)
    assert len(containers(brisk, "moved", ("w1",))["w1"]) == 2
    brisk.kill("w1", signal.SIGSTOP)
    try:
        until(node_is(brisk, "w1", "Down"), timeout_s=20, what="w1 to be down")
        others = tuple(host for host in HOSTS if host != "w1")
        until(lambda: sum(map(len, containers(brisk, "moved", others).values())) == 10, timeout_s=20, what="ten others")
    finally:
        brisk.kill("w1", signal.SIGCONT)
    until(node_is(brisk, "w1", "Ready"), timeout_s=20, what="w1 to be ready")
    until_exact(brisk, "moved", 10)
    assert containers(brisk, "moved", ("w1",))["w1"] == []


def test_the_leader_killed_in_the_middle_of_an_update_a_scale_and_a_removal(swarm_lab: Lab) -> None:
    api = Swarm(swarm_lab)
    config = {"UpdateConfig": {"Parallelism": 1}}
    for name in ("updated", "scaled", "removed"):
        api.create(spec(name, **replicas(4), **config))
    old = {name: {task["ID"] for task in until_exact(swarm_lab, name, 4)} for name in ("updated", "scaled", "removed")}
    first = leader(swarm_lab, "m1")
    assert first is not None
    via = Swarm(swarm_lab, next(host for host in ("m1", "m2", "m3") if host != first))
    via.update("updated", spec("updated", **replicas(4), **config, container={"Env": ["A=2"]}))
    until(lambda: len(via.tasks("updated")) > 5, timeout_s=20, what="the update to be under way")
    via.update("scaled", spec("scaled", **replicas(12), **config))
    via.remove("removed")
    swarm_lab.kill(first)
    try:
        until(lambda: leader(swarm_lab, via.host) not in (None, first), timeout_s=20, what="a new leader")
    finally:
        swarm_lab.start(first)
    updated = until_exact(swarm_lab, "updated", 4, via.host)
    assert {tuple(task["Spec"]["ContainerSpec"]["Env"]) for task in updated} == {("A=2",)}
    until(lambda: via.service("updated")["UpdateStatus"]["State"] == "completed", timeout_s=20, what="completion")
    scaled = {task["ID"] for task in until_exact(swarm_lab, "scaled", 12, via.host)}
    assert old["scaled"] <= scaled, "what ran runs on"
    until(lambda: total(swarm_lab, "removed") == 0, timeout_s=30, what="no container to be left")
    swarm.wait_ready(swarm_lab, 5)


def test_all_hosts_lose_power_and_come_back_in_any_order(swarm_lab: Lab) -> None:
    api = Swarm(swarm_lab)
    api.create(spec("kept", **replicas(7)))
    api.create(spec("everywhere", Mode={"Global": {}}))
    until_exact(swarm_lab, "kept", 7)
    until_exact(swarm_lab, "everywhere", 5)
    order = list(HOSTS)
    random.Random(SEED).shuffle(order)
    print(f"order {order} seed {SEED}")
    for host in order:
        swarm_lab.power_off(host)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(swarm_lab.start, order))
    swarm.wait_ready(swarm_lab, 5)
    until_exact(swarm_lab, "kept", 7, timeout_s=60)
    until_exact(swarm_lab, "everywhere", 5, timeout_s=60)


def test_a_node_removed_while_its_tasks_run(brisk: Lab) -> None:
    api = Swarm(brisk)
    api.create(spec("left", **replicas(5)))
    until_exact(brisk, "left", 5)
    (row,) = [row for row in swarm.nodes(brisk, "m1") if row["Hostname"] == "w2"]
    worker = Docker(brisk.socket("w2"))
    api.docker.ok("node", "rm", "--force", row["ID"])
    try:
        until_exact(brisk, "left", 5)
        until(lambda: containers(brisk, "left", ("w2",)) == {"w2": []}, timeout_s=20, what="w2 to stop its containers")
    finally:
        if worker.ok("info", "--format", "{{.Swarm.LocalNodeState}}") != "inactive":
            worker.ok("swarm", "leave", "--force")
        token = api.docker.ok("swarm", "join-token", "-q", "worker")
        worker.ok("swarm", "join", "--token", token, f"{brisk.host('m1').address}:2377")
        swarm.wait_ready(brisk, 5)


def test_tasks_come_back_to_a_node_that_was_away(swarm_lab: Lab) -> None:
    api = Swarm(swarm_lab)
    # The CLI says busybox:latest when it sends a spec back, which would be an update.
    api.create(spec("even", **replicas(10), container={"Image": "busybox:latest"}))
    until_exact(swarm_lab, "even", 10)
    api.docker.ok("node", "update", "--availability", "drain", "w1")
    try:
        until(lambda: containers(swarm_lab, "even", ("w1",)) == {"w1": []}, timeout_s=20, what="w1 to be empty")
        until_exact(swarm_lab, "even", 10)
    finally:
        api.docker.ok("node", "update", "--availability", "active", "w1")
    # The dry run, and then the label.
    (plan,) = json.loads(swarm_lab.run("m1", str(VENV_BIN / "shoald"), "debug", "rebalance").stdout)
    assert (plan["Service"], plan["MovesPerMinute"]) == ("even", 0)
    assert [move["Target"] for move in plan["Moves"]] == ["w1", "w1"]
    assert swarm_lab.run("w2", str(VENV_BIN / "shoald"), "debug", "rebalance").returncode == 1, "no manager"
    bad = api.docker.bad("service", "update", "--label-add", "shoal.rebalance=often", "even").err
    assert "shoal.rebalance: 'often' is not a number" in bad
    before = {task["ID"] for task in api.tasks("even", "running")}
    api.docker.ok("service", "update", "--label-add", "shoal.rebalance=60", "even")
    until(lambda: len(containers(swarm_lab, "even", ("w1",))["w1"]) == 2, timeout_s=30, what="two tasks on w1")
    after = {task["ID"] for task in until_exact(swarm_lab, "even", 10)}
    assert len(after - before) == 2
    assert all(len(found) == 2 for found in containers(swarm_lab, "even").values())
