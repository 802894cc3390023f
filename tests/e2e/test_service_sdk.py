"""docker-py as its users use it for services, tasks and nodes: what it parses and what it raises judges our answers."""

from __future__ import annotations

from collections.abc import Iterator

import docker as sdk
import pytest
from docker.errors import APIError, NotFound
from docker.models.services import Service
from docker.types import (
    EndpointSpec,
    Mount,
    Placement,
    Resources,
    RestartPolicy,
    ServiceMode,
    UpdateConfig,
)

from lab import swarm
from lab.lab import Lab, running
from lab.wait import until
from tests.e2e.conftest import RUN

SLEEP = ["sleep", "1d"]
GRACE = 500_000_000


@pytest.fixture(scope="module")
def _lab() -> Iterator[Lab]:
    with running(f"{RUN}-sdk", managers=1, workers=1, registry=False) as lab:
        swarm.form(lab)
        yield lab


@pytest.fixture
def client(_lab: Lab) -> Iterator[sdk.DockerClient]:
    made = sdk.DockerClient(base_url=f"unix://{_lab.socket('m1')}", version="1.24", timeout=30)
    try:
        yield made
        for service in made.services.list():
            service.remove()
        until(lambda: not made.api.tasks(), timeout_s=30, what="the tasks to go")
    finally:
        made.close()


def states(service: Service, **filters: str) -> list[str]:
    return [task["Status"]["State"] for task in service.tasks(filters=filters or None)]


def wait_running(service: Service, count: int) -> None:
    def look() -> bool:
        wanted = states(service, **{"desired-state": "running"})
        return wanted == ["running"] * count

    until(look, timeout_s=30, what=f"{count} running tasks")


def test_a_service_from_creation_to_removal(client: sdk.DockerClient) -> None:
    service = client.services.create(
        "busybox",
        args=SLEEP,
        name="web",
        labels={"tier": "front"},
        env=["A=1"],
        container_labels={"c": "d"},
        constraints=["node.role == manager"],
        mode=ServiceMode("replicated", replicas=2),
        resources=Resources(mem_limit=64 << 20, cpu_reservation=1_000_000),
        restart_policy=RestartPolicy(condition="on-failure", delay=1, max_attempts=3),
        update_config=UpdateConfig(parallelism=2, delay=0, failure_action="continue"),
        endpoint_spec=EndpointSpec(mode="vip", ports={8301: 80}),
        mounts=[Mount("/data", "sdk-data", labels={"x": "y"}), "/tmp:/host:ro"],
        stop_grace_period=GRACE,
        user="nobody",
        workdir="/tmp",
    )
    wait_running(service, 2)
    service.reload()
    assert [found.id for found in client.services.list(filters={"name": "web"})] == [service.id]
    assert [found.id for found in client.services.list(filters={"label": "tier=front"})] == [service.id]
    assert client.services.list(filters={"id": "nothing"}) == []
    assert client.services.get("web").attrs["Spec"]["Labels"] == {"tier": "front"}
    template = service.attrs["Spec"]["TaskTemplate"]
    assert template["RestartPolicy"] == {"Condition": "on-failure", "Delay": 1, "MaxAttempts": 3, "Window": 0}
    assert template["Placement"]["Constraints"] == ["node.role == manager"]
    assert service.attrs["Endpoint"]["Ports"][0]["PublishedPort"] == 8301

    before = {task["ID"] for task in service.tasks()}
    service.reload()
    service.update(env=["A=2"], fetch_current_spec=True)

    def updated() -> bool:
        service.reload()
        return service.attrs.get("UpdateStatus", {}).get("State") == "completed"

    until(updated, timeout_s=30, what="the update to end")
    wait_running(service, 2)
    now = service.tasks(filters={"desired-state": "running"})
    assert {tuple(task["Spec"]["ContainerSpec"]["Env"]) for task in now} == {("A=2",)}
    assert not before & {task["ID"] for task in now}

    service.reload()
    service.scale(3)
    wait_running(service, 3)
    (task, *_) = service.tasks(filters={"desired-state": "running"})
    assert client.api.inspect_task(task["ID"])["ServiceID"] == service.id
    container = client.containers.get(task["Status"]["ContainerStatus"]["ContainerID"])
    assert container.exec_run("sh -c 'id -un; pwd; echo $A'").output == b"nobody\n/tmp\n2\n"
    assert container.labels["com.docker.swarm.service.name"] == "web"
    assert container.labels["c"] == "d"

    assert service.remove() is True
    with pytest.raises(NotFound, match="web not found"):
        client.services.get("web")


def test_a_global_service_runs_on_each_node(client: sdk.DockerClient) -> None:
    service = client.services.create("busybox", args=SLEEP, name="each", mode="global", stop_grace_period=GRACE)
    wait_running(service, 2)
    tasks = service.tasks(filters={"desired-state": "running"})
    assert {task["NodeID"] for task in tasks} == {node.id for node in client.nodes.list()}
    with pytest.raises(sdk.errors.InvalidArgument):
        service.scale(2)


def test_errors_are_the_kinds_that_users_catch(client: sdk.DockerClient) -> None:
    client.services.create("busybox", args=SLEEP, name="taken", mode=ServiceMode("replicated", replicas=0))
    for call, status in (
        (lambda: client.services.create("busybox", name="taken"), 409),
        (lambda: client.services.create("busybox", name="-bad-"), 400),
        (lambda: client.services.create("UPPER", name="x"), 400),
        (lambda: client.services.get("none"), 404),
        (lambda: client.api.remove_service("none"), 404),
        (lambda: client.api.inspect_task("none"), 404),
        (lambda: client.nodes.get("none"), 404),
        (
            lambda: client.api.update_service(
                "taken", 1, name="taken", task_template={"ContainerSpec": {"Image": "a"}}
            ),
            500,
        ),
    ):
        with pytest.raises(APIError) as caught:
            call()
        assert caught.value.status_code == status
        assert caught.value.explanation


def test_nodes_are_listed_labelled_and_drained(client: sdk.DockerClient) -> None:
    manager, worker = sorted(client.nodes.list(), key=lambda node: str(node.attrs["Spec"]["Role"]))
    assert [node.attrs["Status"]["State"] for node in (manager, worker)] == ["ready", "ready"]
    assert [node.id for node in client.nodes.list(filters={"role": "worker"})] == [worker.id]
    placed = Placement(constraints=["node.labels.disk == ssd"])
    template = sdk.types.TaskTemplate(
        sdk.types.ContainerSpec("busybox", args=SLEEP, stop_grace_period=GRACE), placement=placed
    )
    client.api.create_service(template, name="placed", mode=ServiceMode("replicated", replicas=1))
    service = client.services.get("placed")
    until(lambda: states(service) == ["pending"], timeout_s=20, what="a task that fits no node")
    assert worker.update({"Role": "worker", "Availability": "active", "Labels": {"disk": "ssd"}}) is True
    wait_running(service, 1)
    worker.reload()
    assert worker.attrs["Spec"]["Labels"] == {"disk": "ssd"}
    assert worker.update({"Role": "worker", "Availability": "drain", "Labels": {}}) is True
    until(lambda: "shutdown" in states(service), timeout_s=20, what="the task to leave")
    worker.reload()
    assert worker.update({"Role": "worker", "Availability": "active", "Labels": {}}) is True


def test_the_swarm_tells_of_itself(client: sdk.DockerClient) -> None:
    client.swarm.reload()
    assert client.swarm.attrs["Spec"]["Name"] == "default"
    assert client.swarm.attrs["JoinTokens"]["Worker"].startswith("SWMTKN-1-")
    assert client.info()["Swarm"]["Nodes"] == 2
    with pytest.raises(APIError) as caught:
        client.swarm.init()
    assert caught.value.status_code == 406
