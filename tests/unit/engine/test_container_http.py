"""The container and exec endpoints over real HTTP: statuses, bodies, hijacked streams; only the parts are fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
import yaml

from api.server.app import App
from api.server.routers import container
from api.server.routers import exec as exec_router
from tests.unit.engine.conftest import Bench

CREATE = {"Image": "busybox", "Cmd": ["true"]}


class Client:
    """Requests at v1.24."""

    def __init__(self, session: aiohttp.ClientSession, socket: str) -> None:
        self.session = session
        self.socket = socket

    async def __call__(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        url = f"http://x/v1.24{path}"
        async with self.session.request(method, url, json=body, params=query) as response:
            data = await response.read()
            return response.status, msgspec.json.decode(data) if data else None

    async def hijack(
        self, path: str, *, upgrade: bool = True, body: bytes = b""
    ) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
        """POST, and the connection after the head."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        head = f"POST /v1.24{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n" if body else ""
        head += "Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else ""
        writer.write(head.encode() + b"\r\n" + body)
        async with asyncio.timeout(5):
            return (await reader.readuntil(b"\r\n\r\n")).decode(), reader, writer


@pytest_asyncio.fixture
async def client(bench: Bench) -> AsyncIterator[Client]:
    routes = [*container.routes(bench.containers), *exec_router.routes(bench.containers.execs)]
    app = App(routes, server_name="Shoal/test")
    path = str(bench.directory / "s.sock")
    app.add_listener(await asyncio.get_running_loop().create_unix_server(app.protocol_factory(), path))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
        yield Client(session, path)
    await app.close()


@pytest.mark.promise(
    "containers.create.b1",
    "containers.create.b2",
    "containers.create.b3",
    "containers.create.b4",
    "containers.create.b67",
    "containers.create.status.201",
    "containers.create.status.400",
    "containers.create.status.404",
    "containers.create.status.409",
    "containers.create.query.name",
    "containers.create.response.Id",
)
async def test_create_statuses(client: Client, bench: Bench) -> None:
    status, answer = await client("POST", "/containers/create", CREATE, name="web")
    assert (status, answer["Warnings"], len(answer["Id"])) == (201, [], 64)
    assert (await client("POST", "/containers/create", CREATE, name="web"))[0] == 409
    assert (await client("POST", "/containers/create", CREATE | {"Image": "nope"}))[0] == 404
    assert (await client("POST", "/containers/create", CREATE, name="a b"))[0] == 400
    status, error = await client("POST", "/containers/create", CREATE | {"HostConfig": {"Memory": "much"}})
    assert (status, "HostConfig.Memory" in error["message"]) == (400, True)
    assert (await client("POST", "/containers/create"))[0] == 400


async def test_nulls_count_as_absent(client: Client) -> None:
    body = CREATE | {"Hostname": None, "Env": None, "HostConfig": {"Memory": None, "RestartPolicy": {"Name": None}}}
    assert (await client("POST", "/containers/create", body))[0] == 201


@pytest.mark.promise(
    "containers.start.b1",
    "containers.start.b2",
    "containers.start.status.204",
    "containers.start.status.304",
    "containers.start.status.404",
    "containers.stop.b1",
    "containers.stop.b3",
    "containers.stop.status.204",
    "containers.stop.status.304",
    "containers.stop.status.404",
    "containers.kill.b1",
    "containers.kill.status.204",
    "containers.kill.status.404",
    "containers.pause.b1",
    "containers.pause.status.204",
    "containers.pause.status.404",
    "containers.unpause.b1",
    "containers.unpause.status.204",
    "containers.unpause.status.404",
    "containers.restart.b1",
    "containers.restart.status.204",
    "containers.restart.status.404",
    "containers.rename.b1",
    "containers.rename.b2",
    "containers.rename.status.204",
    "containers.rename.status.404",
    "containers.rename.status.409",
    "containers.wait.status.200",
    "containers.wait.status.404",
    "containers.wait.response.StatusCode",
    "containers.remove.b1",
    "containers.remove.b6",
    "containers.remove.status.204",
    "containers.remove.status.404",
    "containers.remove.status.409",
)
async def test_verbs_and_their_statuses(client: Client, bench: Bench) -> None:
    await bench.create("other")
    await bench.create("web")
    for expected, method, path in [
        (204, "POST", "/containers/web/start"),
        (304, "POST", "/containers/web/start"),
        (409, "DELETE", "/containers/web"),
        (204, "POST", "/containers/web/pause"),
        (204, "POST", "/containers/web/unpause"),
        (204, "POST", "/containers/web/kill?signal=HUP"),
        (204, "POST", "/containers/web/restart?t=1"),
        (204, "POST", "/containers/web/stop?t=1"),
        (304, "POST", "/containers/web/stop"),
        (409, "POST", "/containers/web/rename?name=other"),
        (204, "POST", "/containers/web/rename?name=site"),
    ]:
        assert (await client(method, path))[0] == expected, path
    assert await client("POST", "/containers/site/wait") == (200, {"StatusCode": 143})
    assert await client("DELETE", "/containers/site") == (204, None)
    for verb in ("start", "stop", "restart", "kill", "pause", "unpause", "wait", "rename?name=x"):
        status, error = await client("POST", f"/containers/gone/{verb}")
        assert status == 404, verb
        assert error["message"].endswith("No such container: gone"), verb
    assert (await client("DELETE", "/containers/gone"))[0] == 404


def _fields(entry: str) -> list[str]:
    with open("tests/conformance/conformance.yaml", encoding="utf-8") as file:
        entries = {item["id"]: item for item in yaml.safe_load(file) if isinstance(item, dict)}
    return [str(name) for name in entries[entry]["response"]["fields"]]


def _has(value: Any, path: list[str]) -> bool:
    """True if the document has the field; a `<key>` part matches any key, `[]` the first item."""
    if not path:
        return True
    part, rest = path[0], path[1:]
    name = part.removesuffix("[]")
    if name.startswith("<"):
        return isinstance(value, dict) and any(_has(item, rest) for item in value.values())
    if not isinstance(value, dict) or name not in value:
        return False
    below = value[name]
    if part.endswith("[]") and rest:
        return bool(below) and _has(below[0], rest)
    return _has(below, rest)


INSPECT_FIELDS = _fields("containers.inspect")


@pytest.mark.promise(
    "containers.inspect.b1",
    "containers.inspect.b2",
    "containers.inspect.b3",
    "containers.inspect.b4",
    "containers.inspect.b5",
    "containers.inspect.b6",
    "containers.inspect.b7",
    "containers.inspect.b8",
    "containers.inspect.status.200",
    "containers.inspect.status.404",
    "containers.inspect.query.size",
    *(f"containers.inspect.response.{name}" for name in INSPECT_FIELDS),
)
async def test_inspect_has_every_field_of_the_document(client: Client, bench: Bench) -> None:
    labels, sysctls = {"a": "b"}, {"net.core.somaxconn": "9"}
    host = {"binds": ["data:/data"], "sysctls": sysctls}
    await bench.run("web", labels=labels, volumes={"/more": {}}, cmd=["sh", "-c", "exit 9"], host=host)
    status, found = await client("GET", "/containers/web/json", size="1")
    assert status == 200
    assert [name for name in INSPECT_FIELDS if not _has(found, name.split("."))] == []
    assert (found["Name"], found["Path"], found["Args"]) == ("/web", "sh", ["-c", "exit 9"])
    assert found["State"]["StartedAt"].endswith("Z")
    assert found["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"
    _, plain = await client("GET", "/containers/web/json")
    assert not {"SizeRw", "SizeRootFs"} & set(plain)
    await bench.create("bare")
    _, bare = await client("GET", "/containers/bare/json")
    config = bare["HostConfig"]
    assert [config[name] for name in ("Binds", "CapAdd", "Dns", "Links")] == [None] * 4
    assert (bare["ExecIDs"], config["Devices"], config["PortBindings"]) == (None, [], {})
    assert (await client("GET", "/containers/gone/json"))[0] == 404


@pytest.mark.promise("containers.list.b8", "containers.list.b19", "containers.list.b20", "containers.list.status.200")
async def test_list_over_http(client: Client, bench: Bench) -> None:
    await bench.create("web", labels={"a": "b"})
    assert await client("GET", "/containers/json") == (200, [])
    status, found = await client("GET", "/containers/json", all="True", filters='{"label": ["a=b"]}')
    assert (status, [item["Names"] for item in found]) == (200, [["/web"]])
    for query in ({"filters": "{"}, {"filters": '{"odd": ["x"]}'}, {"limit": "x"}, {"filters": '{"status": ["x"]}'}):
        assert (await client("GET", "/containers/json", **query))[0] == 400, query


@pytest.mark.promise(
    "containers.attach.b1",
    "containers.attach.b3",
    "containers.attach.b5",
    "containers.attach.b10",
    "containers.attach.b11",
    "containers.attach.b12",
    "containers.attach.b13",
    "containers.attach.b14",
    "containers.attach.status.101",
)
async def test_attach_before_the_start_misses_nothing(client: Client, bench: Bench) -> None:
    container_id = await bench.create(open_stdin=True, stdin_once=True)
    head, reader, writer = await client.hijack(f"/containers/{container_id}/attach?stream=1&stdin=1&stdout=1")
    assert head.startswith("HTTP/1.1 101 UPGRADED\r\n")
    assert "Connection: Upgrade\r\nUpgrade: tcp\r\n" in head
    await bench.containers.start(container_id)
    process = bench.runtime.processes[container_id]
    process.says(b"hello\n")
    writer.write(b"typed")
    writer.write_eof()
    assert await reader.readexactly(14) == b"\x01\x00\x00\x00\x00\x00\x00\x06hello\n"
    async with asyncio.timeout(5):
        while not process.stdin_closed:
            await asyncio.sleep(0.005)
    assert process.typed == b"typed"
    process.says(b"after")
    process.ends(0)
    assert (await reader.read())[8:] == b"after"
    writer.close()


@pytest.mark.promise("containers.attach.b6", "containers.attach.b9", "containers.attach.status.200")
async def test_attach_to_a_terminal_is_raw_and_can_be_left(client: Client, bench: Bench) -> None:
    container_id = await bench.run(tty=True, open_stdin=True)
    head, reader, writer = await client.hijack(
        f"/containers/{container_id}/attach?stream=1&stdin=1&stdout=1", upgrade=False
    )
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    bench.runtime.processes[container_id].says(b"raw")
    assert await reader.readexactly(3) == b"raw"
    writer.write(b"ab\x10\x11")
    assert await reader.read() == b""
    assert bench.runtime.processes[container_id].typed == b"ab"
    assert bench.actions()[-1] == "detach"
    writer.close()


@pytest.mark.promise("containers.attach.b7", "containers.attach.status.409", "containers.attach.status.404")
async def test_attach_refusals(client: Client, bench: Bench) -> None:
    container_id = await bench.run()
    await bench.containers.pause(container_id)
    for expected, path in [
        (409, f"/containers/{container_id}/attach?stream=1&stdout=1"),
        (404, "/containers/gone/attach?stream=1&stdout=1"),
        (400, f"/containers/{await bench.create()}/attach?stream=1&stdout=1&detachKeys=odd-keys"),
    ]:
        head, _, writer = await client.hijack(path)
        assert head.startswith(f"HTTP/1.1 {expected} "), path
        writer.close()


@pytest.mark.promise(
    "exec.create.b1",
    "exec.create.b2",
    "exec.create.b8",
    "exec.create.b9",
    "exec.create.status.201",
    "exec.create.status.404",
    "exec.create.status.409",
    "exec.start.status.404",
    "exec.inspect.b2",
    "exec.inspect.b3",
    "exec.inspect.b4",
    "exec.inspect.status.200",
    "exec.inspect.status.404",
    "exec.resize.b3",
    "exec.resize.status.404",
)
async def test_exec(client: Client, bench: Bench) -> None:
    container_id = await bench.run()
    body = {"Cmd": ["ls", "-l"], "AttachStdout": True, "User": "1000:1000"}
    status, answer = await client("POST", f"/containers/{container_id}/exec", body)
    assert (status, answer["Warnings"], bench.runtime.execs) == (201, [], [])
    exec_id = answer["Id"]
    head, reader, writer = await client.hijack(f"/exec/{exec_id}/start", body=b'{"Detach": false, "Tty": false}')
    assert head.startswith("HTTP/1.1 101 ")
    async with asyncio.timeout(5):
        while f"exec {exec_id}" not in bench.runtime.processes:  # it is started behind the head
            await asyncio.sleep(0)
    process = bench.runtime.processes[f"exec {exec_id}"]
    process.says(b"listing")
    process.ends(3)
    assert (await reader.read())[8:] == b"listing"
    writer.close()
    assert bench.runtime.execs[0]["args"] == ["ls", "-l"]
    assert bench.runtime.execs[0]["user"]["uid"] == 1000
    status, found = await client("GET", f"/exec/{exec_id}/json")
    assert (status, found["Running"], found["ExitCode"]) == (200, False, 3)
    wanted = {"entrypoint": "ls", "arguments": ["-l"], "privileged": False, "tty": False, "user": "1000:1000"}
    assert found["ProcessConfig"] == wanted
    assert (await client("POST", f"/exec/{exec_id}/start", {}))[0] == 409
    await bench.containers.pause(container_id)
    assert (await client("POST", f"/containers/{container_id}/exec", body))[0] == 409
    assert (await client("POST", "/containers/gone/exec", body))[0] == 404
    for method, path in (("POST", "/exec/no/start"), ("POST", "/exec/no/resize?h=1&w=1"), ("GET", "/exec/no/json")):
        assert await client(method, path, {} if "start" in path else None) == (
            404,
            {"message": "No such exec instance: no"},
        )


@pytest.mark.promise("containers.resize.b1", "containers.resize.b3", "containers.resize.status.200")
async def test_resize(client: Client, bench: Bench) -> None:
    container_id = await bench.run(tty=True)
    assert await client("POST", f"/containers/{container_id}/resize?h=40&w=80") == (200, None)
    assert bench.runtime.processes[container_id].size == (40, 80)
    assert (await client("POST", f"/containers/{container_id}/resize?h=x&w=1"))[0] == 400


async def test_a_websocket_endpoint_needs_the_handshake(client: Client, bench: Bench) -> None:
    await bench.create("web")
    assert (await client("GET", "/containers/web/attach/ws"))[0] == 400
