"""Services whose images fail them, each a named scenario: what runs goes on, and the reason is told."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from lab.lab import Lab
from lab.network import REGISTRY
from lab.paths import ROOT
from lab.wait import until
from tests.e2e.client import Docker
from tests.e2e.services import NS, Json, Swarm, spec
from tests.e2e.test_service_faults import replicas, until_exact
from tests.e2e.test_swarm import containers
from worker.exec.images import FRESH_S

PAUSING = {"UpdateConfig": {"Parallelism": 1, "FailureAction": "pause"}}
QUICK = {"RestartPolicy": {"Condition": "any", "Delay": NS // 5}}


@pytest.fixture
def api(swarm_lab: Lab) -> Iterator[Swarm]:
    yield (found := Swarm(swarm_lab))
    found.clear()


def paused(api: Swarm, name: str) -> bool:
    status: Json = api.service(name).get("UpdateStatus", {})
    return bool(status.get("State") == "paused")


def errors(api: Swarm, name: str) -> list[str]:
    """What the tasks of the service that failed say, oldest first."""
    return [task["Status"].get("Err", "") for task in api.tasks(name, "failed", "rejected")]


def test_the_registry_is_down_during_an_update(api: Swarm) -> None:
    api.create(spec("shop", **replicas(5), **PAUSING, task=QUICK))
    before = {task["ID"] for task in until_exact(api.lab, "shop", 5)}
    new = spec("shop", **replicas(5), **PAUSING, task=QUICK, container={"Image": f"{REGISTRY}:5000/library/alpine"})
    api.lab.kill("registry")
    try:
        api.update("shop", new)
        api.until(lambda: paused(api, "shop"), "shop", "the update to pause")
        assert "No such image" in errors(api, "shop")[0]
        assert len(before & {task["ID"] for task in api.tasks("shop", "running")}) >= 4, "the others run on"
    finally:
        api.lab.start("registry")
    api.update("shop", new)
    api.until(lambda: api.service("shop")["UpdateStatus"]["State"] == "completed", "shop", "the update to end")
    assert not before & {task["ID"] for task in until_exact(api.lab, "shop", 5)}


def test_an_update_to_an_image_that_exits_at_once(api: Swarm) -> None:
    api.create(spec("brief", **replicas(3), **PAUSING, task=QUICK))
    before = {task["ID"] for task in until_exact(api.lab, "brief", 3)}
    api.update("brief", spec("brief", "false", **replicas(3), **PAUSING, task=QUICK))
    api.until(lambda: paused(api, "brief"), "brief", "the update to pause")
    assert "task: non-zero exit (1)" in errors(api, "brief")
    api.until(lambda: len(errors(api, "brief")) >= 4, "brief", "the restart policy to try again")
    # A task that ran for a moment counts as updated, so the next one may be on its way when the first has failed.
    assert before & {task["ID"] for task in api.tasks("brief", "running")}, "others run on"
    assert len(api.tasks("brief")) <= 2 + 6, "the history has its limit"


def test_an_update_follows_a_tag_that_has_moved(api: Swarm) -> None:
    def push(label: str) -> None:
        """As someone who works on the image does."""
        program = (
            "import sys; from lab import image; image.push(sys.argv[1], 'moving', image.build(sys.argv[2]), 'tag')"
        )
        argv = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-c", program, f"http://{REGISTRY}:5000", label)
        done = api.lab.run("m1", *argv)
        assert done.returncode == 0, done.stderr

    def labels() -> set[str]:
        found = (api.docker.inspect(each) for each in containers(api.lab, "moving", ("m1",))["m1"])
        return {each["Config"]["Labels"]["lab"] for each in found}

    body = spec("moving", task={"Placement": {"Constraints": ["node.hostname == m1"]}}, container={
        "Image": f"{REGISTRY}:5000/moving:tag"}, **replicas(2))  # fmt: skip
    push("first")
    api.create(body)
    until_exact(api.lab, "moving", 2)
    assert labels() == {"first"}
    push("second")
    time.sleep(FRESH_S)  # for so long the answer of before is good
    body["TaskTemplate"]["ContainerSpec"]["Env"] = ["A=2"]
    api.update("moving", body)
    api.until(lambda: api.service("moving")["UpdateStatus"]["State"] == "completed", "moving", "the update to end")
    until_exact(api.lab, "moving", 2)
    assert labels() == {"second"}


def test_an_image_that_does_not_exist(api: Swarm) -> None:
    api.create(spec("absent", task={"RestartPolicy": {"Condition": "none"}}, container={"Image": "no/such:image"}))
    (task,) = api.until(lambda: api.tasks("absent", "rejected"), "absent", "the task to be rejected")
    assert task["Status"]["Err"].startswith("No such image: no/such:image")


def test_a_bind_mount_of_a_path_that_is_not_there(api: Swarm) -> None:
    mount = {"Type": "bind", "Source": "/no/such/path", "Target": "/x"}
    place = {"Placement": {"Constraints": ["node.hostname == w2"]}, "RestartPolicy": {"Condition": "none"}}
    api.create(spec("bound", container={"Mounts": [mount]}, task=place))
    (task,) = api.until(lambda: api.tasks("bound", "rejected"), "bound", "the task to be rejected")
    assert "/no/such/path" in task["Status"]["Err"]
    assert "w2" in task["Status"]["Err"]


def test_an_image_that_never_becomes_healthy(api: Swarm) -> None:
    worker = Docker(api.lab.socket("w1"))
    check = "HEALTHCHECK --interval=0.3s --retries=2 --timeout=5s CMD"
    for tag, command in (("sick", "false"), ("well", "true")):
        build = ("build", "-q", "-t", f"health:{tag}", "-")
        worker.ok(*build, stdin=f"FROM busybox\n{check} {command}\nCMD sleep 1d\n")
    place = {"Placement": {"Constraints": ["node.hostname == w1"]}, "RestartPolicy": {"Condition": "none"}}

    def image(tag: str) -> Json:
        return spec("checked", **replicas(2), **PAUSING, task=place, container={"Image": f"health:{tag}", "Args": []})

    api.create(image("well"))
    api.running("checked", 2)
    api.update("checked", image("sick"))
    seen: set[str] = set()

    def watched() -> bool:
        sick = [task for task in api.tasks("checked") if task["Spec"]["ContainerSpec"]["Image"] == "health:sick"]
        seen.update(task["Status"]["State"] for task in sick)
        return paused(api, "checked")

    api.until(watched, "checked", "the update to pause")
    assert "running" not in seen, "health gates RUNNING"
    assert any("unhealthy" in error for error in errors(api, "checked"))
    assert len(api.tasks("checked", "running")) == 1, "the other is as it was"


def test_a_service_removed_and_created_again_at_once_fifty_times(api: Swarm) -> None:
    body = spec("again", **replicas(3))
    api.create(body)
    for _ in range(50):
        api.remove("again")
        api.create(body)
    until_exact(api.lab, "again", 3, timeout_s=90)
    api.until(lambda: len(api.get("/tasks")) == 3, "again", "the tasks of those before to be forgotten", 60)


@pytest.mark.skipif(not os.environ.get("SHOAL_LONG"), reason="a minute of silence: set SHOAL_LONG=1")
@pytest.mark.timeout(300)
def test_a_worker_paused_for_a_minute_at_the_default_heartbeat(api: Swarm) -> None:
    api.create(spec("minute", **replicas(10)))
    until_exact(api.lab, "minute", 10)
    api.lab.kill("w1", signal.SIGSTOP)
    try:
        began = time.monotonic()

        def moved() -> bool:
            nodes = {node["ID"]: node["Description"]["Hostname"] for node in api.get("/nodes")}
            return sum(nodes[task["NodeID"]] != "w1" for task in api.tasks("minute", "running")) >= 10

        until(moved, timeout_s=40, what="its tasks to run elsewhere")
        print(f"moved after {time.monotonic() - began:.1f} s")
        time.sleep(max(60 - (time.monotonic() - began), 0))
    finally:
        api.lab.kill("w1", signal.SIGCONT)
    until_exact(api.lab, "minute", 10)
