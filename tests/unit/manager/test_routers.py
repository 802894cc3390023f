"""The swarm endpoints over a real socket, in front of a real swarm of one manager and one worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from api.server.app import App
from api.server.routers import node, service, swarm, task
from api.types.objects import EngineDescription, NodeDescription
from base.clock import NS
from tests.conformance.promises import all_promises
from tests.unit.manager.swarm import Host, Swarm

SPEC: dict[str, Any] = {
    "Name": "web",
    "Labels": {"tier": "front"},
    "TaskTemplate": {
        "ContainerSpec": {"Image": "busybox", "Args": ["top"]},
        "Resources": {"Limits": {}, "Reservations": {}},
        "Placement": {"Constraints": ["node.role == worker"], "Platforms": [{"OS": "linux"}]},
    },
    "Mode": {"Replicated": {"Replicas": 1}},
    "UpdateConfig": {"Parallelism": 1, "FailureAction": "pause"},
    "EndpointSpec": {"Ports": [{"TargetPort": 80}, {"TargetPort": 81, "PublishedPort": 8081}]},
}
LATER = ("NetworksAttachments", "VirtualIPs")
"""Fields that services have on networks, of which there are none yet."""


def fields(entry: str) -> list[str]:
    """The response promises of an entry that this build answers."""
    prefix = f"{entry}.response."
    return [each for each in all_promises() if each.startswith(prefix) and not any(part in each for part in LATER)]


def holds(value: Any, path: str) -> bool:
    """Whether the field is there; `[]` is any item of a list, `<x>` any key."""
    if not path:
        return True
    name, _, rest = path.partition(".")
    if name == "[]":
        return isinstance(value, list) and any(holds(item, rest) for item in value)
    if name.startswith("<"):
        return isinstance(value, dict) and any(holds(item, rest) for item in value.values())
    if name.endswith("[]"):
        return (
            isinstance(value, dict) and name[:-2] in value and holds(value[name[:-2]], "[]." + rest if rest else "[]")
        )
    return isinstance(value, dict) and name in value and holds(value[name], rest)


def assert_fields(entry: str, value: Any) -> None:
    missing = [each for each in fields(entry) if not holds(value, each.removeprefix(f"{entry}.response."))]
    assert not missing


class Client:
    def __init__(self, path: Path) -> None:
        self.path = path

    async def __call__(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """(status, headers, JSON or None)"""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        lines = [f"{method} /v1.24{path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(data)}"]
        lines += ["Content-Type: application/json"] if data else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        head, _, rest = answer.partition(b"\r\n\r\n")
        status, *given = head.decode().split("\r\n")
        return int(status.split()[1]), dict(line.split(": ", 1) for line in given), json.loads(rest) if rest else None


async def serve(host: Host, path: Path) -> App:
    app = App([route for area in (swarm, node, service, task) for route in area.routes(host)], server_name="Shoal/test")
    app.add_listener(await asyncio.get_running_loop().create_unix_server(app.protocol_factory(), str(path)))
    return app


class World:
    """A swarm, and a client for its manager and its worker."""

    def __init__(self, swarm: Swarm, manager: Client, worker: Client) -> None:
        self.swarm, self.manager, self.worker = swarm, manager, worker

    async def create(self, **changes: Any) -> str:
        status, _, body = await self.manager("POST", "/services/create", SPEC | changes)
        assert status == 201, body
        return str(body["ID"])


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    engine = EngineDescription(engine_version="0.1", labels={"disk": "ssd"}, plugins=[("Volume", "local")])
    description = NodeDescription(hostname="w1", nano_cpus=2 * NS, memory_bytes=2**30, engine=engine)
    async with Swarm(tmp_path) as found:
        await found.add_worker("w1", description)
        paths = {name: tmp_path / f"{name}.sock" for name in ("m1", "w1")}
        apps = [await serve(found.hosts[name], path) for name, path in paths.items()]
        try:
            yield World(found, Client(paths["m1"]), Client(paths["w1"]))
        finally:
            for app in apps:
                await app.close()


@pytest.mark.promise(*fields("nodes.list"), *fields("nodes.inspect"), "nodes.list.b1", "nodes.list.b8", "nodes.list.b9",
                     "nodes.list.b10", "nodes.list.status.200", "nodes.inspect.status.200", "nodes.inspect.b1",
                     "nodes.update.b8", "nodes.update.status.200", "nodes.update.query.version")  # fmt: skip
async def test_nodes(world: World) -> None:
    _, _, nodes = await world.manager("GET", "/nodes")
    worker = next(each for each in nodes if each["Description"]["Hostname"] == "w1")
    new = {"Role": "worker", "Availability": "active", "Name": "hand", "Labels": {"zone": "a"}}
    status, headers, body = await world.manager(
        "POST", f"/nodes/{worker['ID']}/update?version={worker['Version']['Index']}", new
    )
    assert (status, headers["Content-Length"], body) == (200, "0", None)
    status, _, nodes = await world.manager("GET", "/nodes")
    assert status == 200
    manager = next(each for each in nodes if "ManagerStatus" in each)
    assert manager["ManagerStatus"] == {"Leader": True, "Reachability": "reachable", "Addr": world.swarm.first.addr}
    assert_fields("nodes.list", nodes)
    status, _, one = await world.manager("GET", "/nodes/w1")
    assert status == 200
    assert (await world.manager("GET", f"/nodes/{worker['ID']}"))[2] == one
    assert one["Spec"] == new
    assert one["Description"]["Resources"] == {"NanoCPUs": 2_000_000_000, "MemoryBytes": 2**30}
    assert_fields("nodes.inspect", one | {"ManagerStatus": manager["ManagerStatus"]})


@pytest.mark.promise("nodes.remove.b1", "nodes.remove.status.200", "nodes.remove.query.force")
async def test_node_removal(world: World) -> None:
    status, _, body = await world.manager("DELETE", "/nodes/w1")
    assert (status, "is not down" in body["message"]) == (400, True)
    status, headers, body = await world.manager("DELETE", "/nodes/w1?force=1")
    assert (status, headers["Content-Length"], body) == (200, "0", None)
    assert (await world.manager("GET", "/nodes/w1"))[0] == 404


@pytest.mark.promise("nodes.inspect.b3", "nodes.inspect.status.404", "nodes.remove.b4", "nodes.remove.status.404",
                     "nodes.update.b10", "nodes.update.status.404", "services.inspect.b3",
                     "services.inspect.status.404",
                     "services.remove.b3", "services.remove.status.404", "services.update.b6",
                     "services.update.status.404", "tasks.inspect.b3", "tasks.inspect.status.404")  # fmt: skip
async def test_what_is_unknown_is_404(world: World) -> None:
    node_spec = {"Role": "worker", "Availability": "active"}
    for method, path, body in [
        ("GET", "/nodes/x", None), ("DELETE", "/nodes/x", None), ("POST", "/nodes/x/update?version=1", node_spec),
        ("GET", "/services/x", None), ("DELETE", "/services/x", None), ("POST", "/services/x/update?version=1", SPEC),
        ("GET", "/tasks/x", None),
    ]:  # fmt: skip
        status, _, answer = await world.manager(method, path, body)
        kind = path.split("/")[1].removesuffix("s")
        assert (status, answer) == (404, {"message": f"{kind} x not found"})


@pytest.mark.promise(
    "nodes.list.b2", "nodes.list.status.406", "nodes.inspect.b2", "nodes.inspect.status.406", "nodes.remove.b3",
    "nodes.remove.status.406", "nodes.update.b9", "nodes.update.status.406", "services.list.b2",
    "services.list.status.406",
    "services.create.b3", "services.create.status.406", "services.remove.b2", "services.remove.status.406",
    "services.inspect.b2", "services.inspect.status.406", "services.update.b5", "services.update.status.406",
    "tasks.list.b2", "tasks.list.status.406", "tasks.inspect.b2", "tasks.inspect.status.406", "swarm.inspect.b2",
    "swarm.inspect.status.406", "swarm.update.b7", "swarm.update.status.406",
)  # fmt: skip
async def test_a_node_that_is_no_manager_answers_406(world: World) -> None:
    for method, path in [
        ("GET", "/swarm"), ("POST", "/swarm/update?version=1"), ("GET", "/nodes"), ("GET", "/nodes/x"),
        ("DELETE", "/nodes/x"), ("POST", "/nodes/x/update?version=1"), ("GET", "/services"), ("GET", "/services/x"),
        ("POST", "/services/create"), ("DELETE", "/services/x"), ("POST", "/services/x/update?version=1"),
        ("GET", "/tasks"), ("GET", "/tasks/x"),
    ]:  # fmt: skip
        status, _, body = await world.worker(method, path, {} if method == "POST" else None)
        assert (status, "This node is not a swarm manager" in body["message"]) == (406, True), path


@pytest.mark.promise(*fields("services.list"), *fields("services.inspect"), "services.list.status.200",
                     "services.create.b1", "services.create.status.201", "services.create.response.ID",
                     "services.inspect.b1", "services.inspect.b4", "services.inspect.status.200",
                     "services.create.b14", "services.update.b15")  # fmt: skip
async def test_services_and_their_fields(world: World) -> None:
    service_id = await world.create()
    tasks = await world.swarm.until_running("web", 1)
    assert tasks[0].node_id == world.swarm.hosts["w1"].identity.node_id, "the constraint names workers"
    status, _, services = await world.manager("GET", "/services")
    assert status == 200
    assert_fields("services.list", services)
    status, _, one = await world.manager("GET", f"/services/{service_id}")
    assert status == 200
    assert_fields("services.inspect", one)
    assert (await world.manager("GET", "/services/web"))[2] == one == services[0]
    assert one["Spec"]["TaskTemplate"]["RestartPolicy"] == {"Condition": "any", "MaxAttempts": 0}
    dynamic, named = one["Endpoint"]["Ports"]
    assert 30_000 <= dynamic["PublishedPort"] <= 32_767
    assert named == {"Protocol": "tcp", "TargetPort": 81, "PublishedPort": 8081, "PublishMode": "ingress"}


@pytest.mark.promise("services.update.b1", "services.update.b2", "services.update.b4", "services.update.status.200",
                     "services.update.query.version", "services.remove.b1", "services.remove.status.200")  # fmt: skip
async def test_update_and_removal(world: World) -> None:
    service_id = await world.create()
    (task_before,) = await world.swarm.until_running("web", 1)
    _, _, one = await world.manager("GET", "/services/web")
    path = f"/services/{service_id}/update"
    assert (await world.manager("POST", path, one["Spec"]))[0] == 400
    assert (await world.manager("POST", f"{path}?version=1x", one["Spec"]))[0] == 400
    status, _, body = await world.manager("POST", f"{path}?version=1", one["Spec"])
    assert (status, body) == (500, {"message": "update out of sequence"})
    version = one["Version"]["Index"]
    status, _, body = await world.manager("POST", f"{path}?version={version}", one["Spec"] | {"Name": "other"})
    assert (status, body) == (501, {"message": "renaming services is not supported"})
    status, headers, body = await world.manager("POST", f"{path}?version={version}", one["Spec"])
    assert (status, headers["Content-Length"], body) == (200, "0", None)
    _, _, same = await world.manager("GET", "/services/web")
    assert same["Spec"] == one["Spec"]
    (task_after,) = await world.swarm.until_running("web", 1)
    assert task_after.id == task_before.id, "sending back what was read replaces no task"
    _, _, body = await world.manager(
        "POST", f"{path}?version={same['Version']['Index']}", one["Spec"], User_Agent="Docker-Client/28.0.0 (linux)"
    )
    assert body == {"Warnings": None}
    status, headers, body = await world.manager("DELETE", "/services/web")
    assert (status, headers["Content-Length"], body) == (200, "0", None)


@pytest.mark.promise("services.create.b4", "services.create.status.409", "services.create.b5",
                     "services.create.status.403")  # fmt: skip
async def test_refused_services(world: World) -> None:
    await world.create()
    for change, status, words in [
        ({}, 409, "name conflicts with an existing object"),
        ({"Name": "a", "Networks": [{"Target": "host"}]}, 403, "not eligible"),
        ({"Name": "a", "Networks": [{"Target": "nosuch"}]}, 404, "network nosuch not found"),
        ({"Name": "a", "Mode": {"Replicated": {"Replicas": "many"}}}, 400, "$.Mode.Replicated.Replicas"),
        ({"Name": "a", "TaskTemplate": {"ContainerSpec": {"Image": 5}}}, 400, "$.TaskTemplate.ContainerSpec.Image"),
    ]:
        found, _, body = await world.manager("POST", "/services/create", SPEC | change)
        assert (found, words in body["message"]) == (status, True), body
    for raw in (b"{", b"", b"[]"):
        assert (await world.manager("POST", "/services/create", raw))[0] == 400
    assert (await world.manager("POST", "/services/create", SPEC, X_Registry_Auth="!"))[0] == 400
    assert [each["Spec"]["Name"] for each in (await world.manager("GET", "/services"))[2]] == ["web"]


@pytest.mark.promise(*fields("tasks.list"), *fields("tasks.inspect"), "tasks.list.b1", "tasks.list.b9",
                     "tasks.list.status.200", "tasks.inspect.b1", "tasks.inspect.status.200")  # fmt: skip
async def test_tasks_and_their_fields(world: World) -> None:
    await world.create()
    (running,) = await world.swarm.until_running("web", 1)
    status, _, tasks = await world.manager("GET", "/tasks")
    assert status == 200
    assert_fields("tasks.list", tasks)
    status, _, one = await world.manager("GET", f"/tasks/{running.id}")
    assert (status, one) == (200, tasks[0])
    assert_fields("tasks.inspect", one)
    assert (one["Slot"], one["DesiredState"], one["Status"]["State"]) == (1, "running", "running")
    world.swarm.hosts["w1"].engine.exit(running.id, 1)

    async def ended() -> bool:
        _, _, tasks = await world.manager("GET", "/tasks")
        return any(each["Status"]["State"] == "failed" and each["DesiredState"] == "shutdown" for each in tasks)

    await world.swarm.until(ended)
    filtered = '/tasks?filters={"desired-state":{"shutdown":true},"service":["web"]}'
    _, _, tasks = await world.manager("GET", filtered.replace('"', "%22").replace("{", "%7B").replace("}", "%7D"))
    assert [each["ID"] for each in tasks] == [running.id]
    assert tasks[0]["Status"]["ContainerStatus"]["ExitCode"] == 1
    assert (await world.manager("GET", "/tasks?filters=%7B%22wonder%22%3A%5B%22x%22%5D%7D"))[0] == 400


@pytest.mark.promise(*fields("swarm.inspect"), "swarm.inspect.b1", "swarm.inspect.b3", "swarm.inspect.b4",
                     "swarm.inspect.b5", "swarm.inspect.status.200", "swarm.update.b1", "swarm.update.b2",
                     "swarm.update.b3", "swarm.update.b6", "swarm.update.b8", "swarm.update.status.200",
                     "swarm.update.status.400", "swarm.update.query.version",
                     "swarm.update.query.rotateWorkerToken")  # fmt: skip
async def test_the_swarm(world: World) -> None:
    status, _, one = await world.manager("GET", "/swarm")
    assert status == 200
    assert_fields("swarm.inspect", one)
    worker, manager = (one["JoinTokens"][role].split("-") for role in ("Worker", "Manager"))
    assert worker[:3] == manager[:3]
    assert worker[:2] == ["SWMTKN", "1"]
    assert worker[3] != manager[3]
    spec, version = one["Spec"] | {"Orchestration": {"TaskHistoryRetentionLimit": 2}}, one["Version"]["Index"]
    assert (await world.manager("POST", "/swarm/update", spec))[0] == 400
    assert (await world.manager("POST", f"/swarm/update?version={version}", spec | {"Name": "x"}))[0] == 400
    assert (await world.manager("POST", f"/swarm/update?version={version + 9}", spec))[0] == 500
    status, headers, body = await world.manager("POST", f"/swarm/update?version={version}&rotateWorkerToken=1", spec)
    assert (status, headers["Content-Length"], body) == (200, "0", None)
    _, _, after = await world.manager("GET", "/swarm")
    assert after["Spec"] == spec
    assert after["JoinTokens"]["Manager"] == one["JoinTokens"]["Manager"]
    assert after["JoinTokens"]["Worker"] != one["JoinTokens"]["Worker"]
