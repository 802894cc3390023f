"""The image endpoints over a real socket: statuses, bodies and streams, and the docker CLI as an independent judge."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from api.server.app import App
from api.server.routers import image as image_routes
from tests.unit.images.archives import TestImage, digest_of, files, two_layers
from tests.unit.images.conftest import Host
from tests.unit.images.registry_server import RegistryServer
from worker.engine.images.registry import RegistryConfig
from worker.engine.images.service import ImageService

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="owners and whiteouts need root")]

DOCKER = shutil.which("docker")
needs_docker = pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")


class Client:
    """Speaks to the endpoints."""

    def __init__(self, session: aiohttp.ClientSession, socket: Path) -> None:
        self._session = session
        self._socket = socket

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with self._session.request(method, "http://shoal/v1.24" + path, **more) as response:
            raw = await response.read()
            return response.status, json.loads(raw) if raw else None

    async def stream(self, method: str, path: str, **more: Any) -> tuple[int, list[dict[str, Any]]]:
        async with self._session.request(method, "http://shoal/v1.24" + path, **more) as response:
            return response.status, [json.loads(line) for line in (await response.text()).splitlines()]

    async def raw(self, method: str, path: str, **more: Any) -> tuple[int, str, bytes]:
        async with self._session.request(method, "http://shoal/v1.24" + path, **more) as response:
            return response.status, response.content_type, await response.read()

    async def docker(self, *args: str, stdin: bytes | None = None) -> tuple[int, str, str]:
        """The docker CLI: status, stdout, stderr."""
        assert DOCKER is not None
        process = await asyncio.create_subprocess_exec(
            DOCKER,
            *args,
            env={**os.environ, "DOCKER_HOST": f"unix://{self._socket}", "DOCKER_API_VERSION": "1.24"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate(stdin or b"")
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def registry() -> AsyncIterator[RegistryServer]:
    async with RegistryServer() as registry:
        yield registry


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(tmp_path / "data")
    await host.open()
    yield host
    await host.shut()


@pytest.fixture
async def client(host: Host, tmp_path: Path) -> AsyncIterator[Client]:
    service = ImageService(host.store, RegistryConfig(retry_delay_s=0.01))
    app = App(image_routes.routes(service), server_name="Shoal/test")
    socket = tmp_path / "api.sock"
    app.add_listener(await asyncio.get_running_loop().create_unix_server(app.protocol_factory(), str(socket)))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session:
        yield Client(session, socket)
    await app.close()


async def pull(client: Client, registry: RegistryServer, image: TestImage, name: str = "app") -> str:
    registry.add(name, "v1", image)
    status, messages = await client.stream("POST", f"/images/create?fromImage={registry.host}/{name}&tag=v1")
    assert status == 200, messages
    assert "error" not in messages[-1], messages
    return f"{registry.host}/{name}:v1"


class TestPull:
    @pytest.mark.promise(
        "images.create.status.200", "images.create.b2", "images.create.query.fromImage",
        "images.create.response.status", "images.create.response.progressDetail.current",
        "images.create.response.progressDetail.total", "images.create.response.progress", "images.create.b15",
    )  # fmt: skip
    async def test_a_stream_of_objects(self, client: Client, registry: RegistryServer) -> None:
        registry.add("app", "v1", two_layers())
        status, messages = await client.stream("POST", f"/images/create?fromImage={registry.host}/app:v1")
        assert status == 200
        assert messages[0]["status"] == "Pulling from app"
        extracted = [one for one in messages if one["status"] == "Extracting"][-1]
        assert extracted["progressDetail"]["current"] == extracted["progressDetail"]["total"] > 0
        assert extracted["progress"].startswith("[====")
        assert messages[-1]["status"].startswith("Status: Downloaded newer image")

    @pytest.mark.promise("images.create.status.404", "images.create.b14")
    async def test_unknown(self, client: Client, registry: RegistryServer) -> None:
        status, body = await client.ask("POST", f"/images/create?fromImage={registry.host}/none&tag=v1")
        assert status == 404
        assert body["message"].startswith(f"pull access denied for {registry.host}/none, repository does not exist")

    @pytest.mark.promise("images.create.b16", "images.create.response.error")
    async def test_a_failure_after_the_start_is_in_the_stream(self, client: Client, registry: RegistryServer) -> None:
        image = two_layers()
        registry.add("app", "v1", image)
        del registry.blobs[digest_of(image.blobs()[1])]
        status, messages = await client.stream("POST", f"/images/create?fromImage={registry.host}/app&tag=v1")
        assert status == 200
        assert messages[-1]["error"] == messages[-1]["errorDetail"]["message"]
        assert "blob unknown" in messages[-1]["error"]

    @pytest.mark.promise("images.create.b4", "images.create.b7")
    @pytest.mark.parametrize("query", ["", "?fromImage=a&fromSrc=-", "?fromImage=A", "?fromImage=a&tag=b%20c"])
    async def test_bad_requests(self, client: Client, query: str) -> None:
        status, body = await client.ask("POST", f"/images/create{query}")
        assert status == 400, body

    async def test_a_client_that_leaves_cancels(self, client: Client, host: Host, registry: RegistryServer) -> None:
        image = TestImage([files({"random": os.urandom(200_000)})])
        registry.add("app", "v1", image)
        reached, release = asyncio.Event(), asyncio.Event()

        class Slow(aiohttp.web.StreamResponse):
            async def write_eof(self, data: bytes = b"") -> None:
                reached.set()
                await release.wait()

        registry.fault = lambda request, _seen: Slow() if digest_of(image.blobs()[0]) in request.path else None
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(client.stream("POST", f"/images/create?fromImage={registry.host}/app&tag=v1"))
            await reached.wait()
            asked.cancel()
        async with asyncio.timeout(10):
            while host.files() != (set(), set()) or host.store.pins:
                await asyncio.sleep(0.01)
        release.set()


class TestImages:
    @pytest.mark.promise("images.list.status.200", "images.list.query.digests", "images.list.b6",
                         "images.list.b4", "images.list.b14", "images.list.response.[].Id",
                         "images.list.response.[].RepoDigests[]", "images.list.response.[].Created",
                         "images.list.response.[].Size", "images.list.response.[].VirtualSize",
                         "images.list.response.[].Labels.<label>")  # fmt: skip
    async def test_list(self, client: Client, registry: RegistryServer) -> None:
        image = two_layers()
        name = await pull(client, registry, image)
        status, (item,) = await client.ask("GET", "/images/json?digests=1")
        assert status == 200
        digest = digest_of(image.manifest())
        assert item == {
            "Id": image.id,
            "RepoTags": [name],
            "RepoDigests": [f"{registry.host}/app@{digest}"],
            "Created": 1612325106,
            "Size": 5002,
            "VirtualSize": 5002,
            "Labels": {"com.example.kind": "test"},
        }
        assert (await client.ask("GET", f"/images/{item['RepoDigests'][0]}/json"))[1]["Id"] == image.id

    async def test_an_unknown_filter(self, client: Client) -> None:
        status, body = await client.ask("GET", '/images/json?filters={"nope":["x"]}')
        assert (status, body["message"]) == (400, "Invalid filter 'nope'")

    @pytest.mark.promise("images.inspect.status.200", "images.inspect.response.Id", "images.inspect.response.Os",
                         "images.inspect.response.Config.Cmd[]", "images.inspect.response.RootFS.Layers[]",
                         "images.inspect.response.RootFS.Type", "images.inspect.response.GraphDriver.Name",
                         "images.inspect.response.RepoTags[]", "images.inspect.response.Architecture",
                         "images.inspect.response.Size", "images.inspect.response.VirtualSize",
                         "images.inspect.response.Created", "images.inspect.response.Parent")  # fmt: skip
    async def test_inspect(self, client: Client, registry: RegistryServer) -> None:
        image = two_layers()
        name = await pull(client, registry, image)
        status, body = await client.ask("GET", f"/images/{name}/json")
        assert status == 200
        assert (body["Id"], body["Os"], body["Architecture"], body["Parent"]) == (image.id, "linux", "amd64", "")
        assert body["Config"]["Cmd"] == ["/bin/true"]
        assert body["RootFS"] == {"Type": "layers", "Layers": [digest_of(layer) for layer in image.layers]}
        assert body["GraphDriver"]["Name"] == "overlay2"
        assert body["RepoTags"] == [name]
        assert body["Size"] == body["VirtualSize"] == 5002
        assert body["Created"] == "2021-02-03T04:05:06.789Z"

    @pytest.mark.promise("images.inspect.status.404", "images.inspect.b2", "images.history.status.404",
                         "images.history.b2", "images.tag.status.404", "images.tag.b3",
                         "images.remove.status.404")  # fmt: skip
    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/images/a/b/json"), ("GET", "/images/a/b/history"), ("POST", "/images/a/b/tag?repo=x"),
         ("DELETE", "/images/a/b"), ("GET", "/images/a/b/get")],
    )  # fmt: skip
    async def test_unknown(self, client: Client, method: str, path: str) -> None:
        assert await client.ask(method, path) == (404, {"message": "No such image: a/b:latest"})

    @pytest.mark.promise("images.history.status.200", "images.history.response.[].Id",
                         "images.history.response.[].Created", "images.history.response.[].CreatedBy",
                         "images.history.response.[].Tags[]", "images.history.response.[].Size",
                         "images.history.response.[].Comment")  # fmt: skip
    async def test_history(self, client: Client, registry: RegistryServer) -> None:
        image = two_layers()
        name = await pull(client, registry, image)
        status, items = await client.ask("GET", f"/images/{name}/history")
        assert status == 200
        assert items[0] == {
            "Id": image.id, "Created": 1612325106, "CreatedBy": "step 1", "Tags": [name], "Size": 1, "Comment": "",
        }  # fmt: skip

    @pytest.mark.promise("images.tag.status.201", "images.tag.b1", "images.tag.query.repo", "images.tag.query.tag",
                         "images.remove.status.200", "images.remove.b2", "images.remove.query.force",
                         "images.remove.response.[].Untagged", "images.remove.response.[].Deleted")  # fmt: skip
    async def test_tag_and_remove(self, client: Client, registry: RegistryServer) -> None:
        image = two_layers()
        name = await pull(client, registry, image)
        assert await client.ask("POST", f"/images/{name}/tag?repo=mine&tag=v42") == (201, None)
        status, body = await client.ask("DELETE", f"/images/{image.id}")
        assert status == 409
        assert "must be forced" in body["message"]
        status, body = await client.ask("DELETE", f"/images/{image.id}?force=1")
        assert status == 200
        assert {"Untagged": "mine:v42"} in body
        assert {"Deleted": image.id} in body
        assert body.index({"Untagged": "mine:v42"}) < body.index({"Deleted": image.id})

    async def test_what_is_not_offered_says_so(self, client: Client) -> None:
        for method, path in (("GET", "/images/search?term=x"), ("POST", "/build"), ("POST", "/commit")):
            status, body = await client.ask(method, path)
            assert status == 501
            assert "not supported" in body["message"]


class TestTarballs:
    async def test_save_and_load(self, client: Client, registry: RegistryServer) -> None:
        image = two_layers()
        name = await pull(client, registry, image)
        status, kind, archive = await client.raw("GET", f"/images/get?names={name}")
        assert (status, kind) == (200, "application/x-tar")
        assert (await client.raw("GET", f"/images/{name}/get"))[2] == archive
        await client.ask("DELETE", f"/images/{image.id}?force=1")
        status, messages = await client.stream("POST", "/images/load", data=archive)
        assert status == 200
        assert messages[-1] == {"stream": f"Loaded image: {name}\n"}
        status, messages = await client.stream("POST", "/images/load?quiet=1", data=archive)
        assert messages == [{"stream": f"Loaded image: {name}\n"}]

    async def test_a_bad_archive_is_a_bad_request(self, client: Client) -> None:
        status, body = await client.ask("POST", "/images/load", data=b"nonsense" * 200)
        assert status == 400, body


@needs_docker
class TestDockerCli:
    async def test_the_life_of_an_image(self, client: Client, registry: RegistryServer, tmp_path: Path) -> None:
        image = two_layers()
        registry.add("team/app", "v1", image)
        name = f"{registry.host}/team/app:v1"
        status, out, err = await client.docker("pull", name)
        assert status == 0, err
        assert f"Status: Downloaded newer image for {name}" in out
        assert (await client.docker("images", "-q", "--no-trunc"))[1].strip() == image.id
        assert (await client.docker("tag", name, "mine:v2"))[0] == 0
        assert (await client.docker("image", "inspect", "-f", "{{.Id}}", "mine:v2"))[1].strip() == image.id
        assert "step 1" in (await client.docker("history", "mine:v2"))[1]
        assert (await client.docker("save", "-o", str(tmp_path / "saved.tar"), "mine:v2"))[0] == 0
        status, out, err = await client.docker("rmi", "mine:v2", name)
        assert status == 0, err
        assert "Untagged: mine:v2" in out
        assert f"Deleted: {image.id}" in out
        status, out, err = await client.docker("load", "-i", str(tmp_path / "saved.tar"))
        assert status == 0, err
        assert out.strip().endswith("Loaded image: mine:v2")
        assert (await client.docker("images", "--format", "{{.Repository}}:{{.Tag}}", "mine"))[1].strip() == "mine:v2"

    async def test_import(self, client: Client) -> None:
        status, out, err = await client.docker("import", "-c", "CMD sh", "-", "imported:1", stdin=files({"f": b"1"}))
        assert status == 0, err
        assert out.startswith("sha256:")
        shown = await client.docker("image", "inspect", "-f", "{{json .Config.Cmd}}", "imported:1")
        assert json.loads(shown[1]) == ["/bin/sh", "-c", "sh"]

    async def test_errors_as_users_know_them(self, client: Client, registry: RegistryServer) -> None:
        status, _out, err = await client.docker("pull", f"{registry.host}/none")
        assert status == 1
        assert "pull access denied" in err
        status, _out, err = await client.docker("rmi", "nope")
        assert status == 1
        assert "No such image: nope:latest" in err
