"""The /networks and /volumes endpoints over HTTP, on the real controller in a network namespace of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from api.errors import NotInSwarm
from api.server.app import App
from api.server.backends import NOT_A_MANAGER, ControlBackend
from api.server.routers import network, volume
from api.types.cluster import SwarmInit, SwarmJoin
from api.types.endpoint import EndpointSettings
from daemon.networks import Networks
from tests.integration.networking import Heard, alone, controller, request
from worker.engine.networks.controller import NetworkController
from worker.engine.records import Records
from worker.engine.syscalls import netns
from worker.engine.volumes.store import VolumeStore

pytestmark = pytest.mark.root


class Members:
    """Every reference is a running container's id."""

    def __init__(self, networks: NetworkController) -> None:
        self._networks = networks

    async def connect_network(self, ref: str, name: str, settings: EndpointSettings | None) -> None:
        await self._networks.connect(ref, name, settings or EndpointSettings())

    async def disconnect_network(self, ref: str, name: str, *, force: bool) -> None:
        await self._networks.disconnect(ref, name, force=force)


class NoSwarm:
    """A host that is in no swarm."""

    def control(self) -> ControlBackend:
        raise NotInSwarm(NOT_A_MANAGER)

    async def init(self, request: SwarmInit) -> str:
        raise AssertionError("nobody asks for this here")

    async def join(self, request: SwarmJoin) -> None:
        raise AssertionError("nobody asks for this here")

    async def leave(self, *, force: bool) -> None:
        raise AssertionError("nobody asks for this here")


class Client:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self._session.request(method, f"http://shoal/v1.24{path}", json=body) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None


class QuietEvents:
    def publish(self, kind: str, action: str, actor_id: str, attributes: object) -> None:
        pass


@contextlib.asynccontextmanager
async def served(root: Path, networks: NetworkController) -> AsyncIterator[Client]:
    """Both routers on a unix socket, and a client."""
    records = Records(root / "volumes.db")
    await records.open()
    volumes = VolumeStore(records, root / "data", QuietEvents())
    await volumes.start_up()
    app = App(
        [*network.routes(Networks(networks, NoSwarm()), Members(networks)), *volume.routes(volumes)],
        server_name="Shoal/test",
    )
    path = root / "api.sock"
    app.add_listener(await asyncio.get_running_loop().create_unix_server(app.protocol_factory(), path))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        yield Client(session)
    await app.close()
    await volumes.close()
    await records.close()


@pytest.fixture(autouse=True)
def _namespaces(tmp_path: Path) -> Any:
    yield
    for path in (tmp_path / "run/netns").glob("*"):
        netns.remove(path)


@pytest.mark.promise(
    "networks.list.status.200",
    "networks.inspect.status.200",
    "networks.inspect.status.404",
    "networks.inspect.b1",
    "networks.inspect.b2",
    "networks.create.status.201",
    "networks.create.status.403",
    "networks.create.status.404",
    "networks.create.b1",
    "networks.create.response.Id",
    "networks.create.response.Warning",
    "networks.connect.status.200",
    "networks.connect.status.404",
    "networks.connect.b1",
    "networks.disconnect.status.200",
    "networks.disconnect.status.404",
    "networks.disconnect.b1",
    "networks.remove.status.204",
    "networks.remove.status.403",
    "networks.remove.status.404",
    "networks.remove.b1",
    "networks.remove.b3",
    "networks.list.b7",
    "networks.list.b8",
    "networks.list.b10",
    "networks.list.b11",
)
def test_networks_over_http(tmp_path: Path) -> None:
    async def body() -> None:
        heard = Heard()
        async with controller(tmp_path, heard) as networks, served(tmp_path, networks) as client:
            status, listed = await client.call("GET", "/networks")
            assert status == 200
            shown = {one["Name"]: one for one in listed}
            assert {name: one["Driver"] for name, one in shown.items()} == {
                "bridge": "bridge",
                "host": "host",
                "none": "null",
            }
            assert all(one["Scope"] == "local" for one in listed)
            assert shown["none"]["Containers"] == shown["none"]["Options"] == {}
            assert shown["none"]["IPAM"]["Config"] == []
            assert shown["bridge"]["Options"] == {
                "com.docker.network.bridge.default_bridge": "true",
                "com.docker.network.bridge.enable_icc": "true",
                "com.docker.network.bridge.enable_ip_masquerade": "true",
                "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
                "com.docker.network.bridge.name": "shoal0",
                "com.docker.network.driver.mtu": "1500",
            }
            status, made = await client.call("POST", "/networks/create", {"Name": "blue", "CheckDuplicate": True})
            assert (status, made["Warning"]) == (201, "")
            assert len(made["Id"]) == 64
            for ref in ("blue", made["Id"], made["Id"][:10]):
                status, one = await client.call("GET", f"/networks/{ref}")
                assert (status, one["Id"]) == (200, made["Id"])
            again = await client.call("POST", "/networks/create", {"Name": "blue", "CheckDuplicate": True})
            assert again == (409, {"message": "network with name blue already exists"})
            status, listed = await client.call("GET", '/networks?filters={"type":{"custom":true}}')
            assert [one["Name"] for one in listed] == ["blue"]

            assert (await client.call("GET", "/networks/nope")) == (404, {"message": "network nope not found"})
            assert (await client.call("POST", "/networks/create", {"Name": "host"}))[0] == 403
            assert (await client.call("POST", "/networks/create", {"Name": "x", "Driver": "nope"}))[0] == 404
            status, error = await client.call("POST", "/networks/create", {"Name": "x", "Internal": "yes"})
            assert status == 400
            assert "Internal" in error["message"]

            await networks.attach(request(tmp_path, "web"))
            web = ("web" * 64)[:64]
            assert (await client.call("POST", "/networks/blue/connect", {"Container": web}))[0] == 200
            status, one = await client.call("GET", "/networks/blue")
            assert one["Containers"][web]["Name"] == "web"
            assert (await client.call("DELETE", "/networks/blue"))[0] == 403
            assert (await client.call("POST", "/networks/blue/disconnect", {"Container": web, "Force": True}))[0] == 200
            for verb in ("connect", "disconnect"):
                assert (await client.call("POST", f"/networks/nope/{verb}", {"Container": web}))[0] == 404
                assert (await client.call("POST", f"/networks/blue/{verb}", {"Container": "nobody"}))[0] == 404
            assert await client.call("DELETE", "/networks/blue") == (204, None)
            assert (await client.call("DELETE", "/networks/blue"))[0] == 404
            assert (await client.call("DELETE", "/networks/bridge"))[0] == 403
            assert heard.all == [
                ("network create", "blue"),
                ("network connect", "bridge"),
                ("network connect", "blue"),
                ("network disconnect", "blue"),
                ("network destroy", "blue"),
            ]

    alone(body)


@pytest.mark.promise(
    "volumes.list.status.200",
    "volumes.list.b1",
    "volumes.create.status.201",
    "volumes.inspect.status.200",
    "volumes.inspect.status.404",
    "volumes.inspect.b1",
    "volumes.remove.status.204",
    "volumes.remove.status.404",
)
def test_volumes_over_http(tmp_path: Path) -> None:
    async def body() -> None:
        async with controller(tmp_path) as networks, served(tmp_path, networks) as client:
            assert await client.call("GET", "/volumes") == (200, {"Volumes": [], "Warnings": []})
            status, made = await client.call("POST", "/volumes/create", {"Name": "data", "Labels": {"a": "b"}})
            assert (status, made["Name"], made["Labels"]) == (201, "data", {"a": "b"})
            assert await client.call("GET", "/volumes/data") == (200, made)
            status, listed = await client.call("GET", '/volumes?filters={"dangling":["true"]}')
            assert listed["Volumes"] == [made]
            assert await client.call("DELETE", "/volumes/data") == (204, None)
            assert (await client.call("DELETE", "/volumes/data"))[0] == 404
            assert await client.call("GET", "/volumes/data") == (404, {"message": "get data: no such volume"})
            assert (await client.call("POST", "/volumes/create", {"Name": "../x"}))[0] == 400

    alone(body)
