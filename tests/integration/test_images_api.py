"""The image endpoints over a real socket: statuses, bodies and streams, and the docker CLI as an independent judge."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import shutil
import tarfile
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
from tests.unit.images.test_archives import docker_archive
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
            while await host.files() != (set(), set()) or host.store.pins:
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
        name = "a/b" if path.endswith("/get") else "a/b:latest"
        assert await client.ask(method, path) == (404, {"message": f"No such image: {name}"})

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


WHOLE = {
    "Hostname": "h", "Domainname": "d", "User": "u", "AttachStdin": True, "AttachStdout": True, "AttachStderr": True,
    "Tty": True, "OpenStdin": True, "StdinOnce": True, "NetworkDisabled": True, "PublishService": "p",
    "MacAddress": "02:00:00:00:00:01", "ExposedPorts": {"80/tcp": {}}, "Env": ["A=1"], "Cmd": ["/bin/bash"],
    "Image": "f" * 64, "Volumes": {"/v": {}}, "WorkingDir": "/w", "Entrypoint": ["/e"], "OnBuild": ["RUN x"],
    "Labels": {"k": "v"},
}  # fmt: skip
_CONFIG_KEYS = [key + {"Env": "[]", "Cmd": "[]", "OnBuild": "[]"}.get(key, "") for key in WHOLE]


class TestInspectWhole:
    @pytest.mark.promise(
        *(f"images.inspect.response.{part}.{key}" for part in ("Config", "ContainerConfig") for key in _CONFIG_KEYS),
        *(f"images.inspect.response.{part}.Labels.<label>" for part in ("Config", "ContainerConfig")),
        "images.inspect.response.Config", "images.inspect.response.ContainerConfig",
        "images.inspect.response.Container", "images.inspect.response.Comment", "images.inspect.response.Author",
        "images.inspect.response.DockerVersion", "images.inspect.response.RootFS",
        "images.inspect.response.GraphDriver", "images.inspect.response.GraphDriver.Data", "images.inspect.b6",
    )  # fmt: skip
    async def test_every_field_of_the_configuration(self, client: Client) -> None:
        extra = {
            "config": WHOLE, "container_config": WHOLE, "container": "c" * 64, "comment": "said", "author": "me",
            "docker_version": "1.9.0-dev",
        }  # fmt: skip
        image = TestImage([files({"a": b""})], extra)
        status, messages = await client.stream("POST", "/images/load", data=docker_archive(image, "whole:1"))
        assert status == 200, messages
        _status, body = await client.ask("GET", "/images/whole:1/json")
        assert body["Config"] == body["ContainerConfig"] == WHOLE
        told = (body["Container"], body["Comment"], body["Author"], body["DockerVersion"])
        assert told == ("c" * 64, "said", "me", "1.9.0-dev")
        assert set(body["RootFS"]) == {"Type", "Layers"}
        assert set(body["GraphDriver"]) == {"Name", "Data"}

    async def test_a_bare_configuration_has_every_field_too(self, client: Client) -> None:
        image = TestImage([files({"a": b""})], {"config": None})
        await client.stream("POST", "/images/load", data=docker_archive(image, "bare:1"))
        _status, body = await client.ask("GET", "/images/bare:1/json")
        assert set(body["Config"]) == set(WHOLE)
        assert body["Config"]["Tty"] is False
        assert body["Config"]["Cmd"] is None


def members(archive: bytes) -> dict[str, bytes]:
    """Names and contents of the files of a tarball."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        read = {one.name: opened.extractfile(one) for one in opened if one.isfile()}
        return {name: file.read() for name, file in read.items() if file is not None}


class TestTarballs:
    @pytest.fixture
    async def images(self, client: Client) -> tuple[TestImage, TestImage]:
        first = two_layers()
        second = TestImage([first.layers[0], files({"c": b"3"})])
        for image, names in ((first, ("app:1", "other:x")), (second, ("app:2",))):
            status, messages = await client.stream("POST", "/images/load", data=docker_archive(image, *names))
            assert status == 200, messages
        return first, second

    @pytest.mark.promise(
        "images.get-one.b1", "images.get-one.b5", "images.get-one.status.200", "misc.image-tarball-format.b1",
        "misc.image-tarball-format.b2", "misc.image-tarball-format.b3", "misc.image-tarball-format.b4",
        "misc.image-tarball-format.b6", "misc.image-tarball-format.b7",
    )  # fmt: skip
    async def test_a_repository(self, client: Client, images: tuple[TestImage, TestImage]) -> None:
        status, kind, archive = await client.raw("GET", "/images/app/get")
        assert (status, kind) == (200, "application/x-tar")
        content = members(archive)
        repositories = json.loads(content["repositories"])
        assert set(repositories) == {"app"}
        for tag, image in zip(("1", "2"), images, strict=True):
            layer = repositories["app"][tag]
            assert len(layer) == 64
            assert content[f"{layer}/VERSION"] == b"1.0"
            assert content[f"{layer}/layer.tar"] == image.layers[1]
            about = json.loads(content[f"{layer}/json"])
            assert about["id"] == layer
            assert content[f"{about['parent']}/layer.tar"] == image.layers[0]

    @pytest.mark.promise("images.get-one.b2", "images.get-one.b3", "images.get-one.b4")
    async def test_a_tag_and_an_id(self, client: Client, images: tuple[TestImage, TestImage]) -> None:
        content = members((await client.raw("GET", "/images/app:2/get"))[2])
        assert images[1].id[7:] + ".json" in content
        assert images[0].id[7:] + ".json" not in content
        content = members((await client.raw("GET", f"/images/{images[0].id}/get"))[2])
        assert images[0].id[7:] + ".json" in content
        assert images[1].id[7:] + ".json" not in content
        assert "repositories" not in content

    @pytest.mark.promise(
        "images.get-many.b1", "images.get-many.b2", "images.get-many.b3", "images.get-many.b4", "images.get-many.b5",
        "images.get-many.b6", "images.get-many.status.200", "images.get-many.query.names",
    )  # fmt: skip
    async def test_several(self, client: Client, images: tuple[TestImage, TestImage]) -> None:
        status, kind, archive = await client.raw("GET", f"/images/get?names=other%3Ax&names={images[1].id}")
        assert (status, kind) == (200, "application/x-tar")
        content = members(archive)
        assert {images[0].id[7:] + ".json", images[1].id[7:] + ".json"} <= set(content)
        assert set(json.loads(content["repositories"])) == {"other"}
        status, _kind, archive = await client.raw("GET", "/images/get?names=app&names=other")
        assert {name: set(tags) for name, tags in json.loads(members(archive)["repositories"]).items()} == {
            "app": {"1", "2"}, "other": {"x"},
        }  # fmt: skip

    @pytest.mark.promise(
        "images.load.b1", "images.load.b2", "images.load.b3", "images.load.b4", "images.load.b5", "images.load.b6",
        "images.load.b7", "images.load.status.200", "images.load.query.quiet", "images.load.body._stream",
        "images.load.response.status", "images.load.response.progressDetail", "images.load.response.progress",
        "images.load.response.progressDetail.current", "images.load.response.progressDetail.total",
        "images.load.response.id", "images.load.response.stream",
    )  # fmt: skip
    async def test_save_and_load(self, client: Client, images: tuple[TestImage, TestImage]) -> None:
        archive = (await client.raw("GET", "/images/other/get"))[2]
        await client.ask("DELETE", f"/images/{images[0].id}?force=1")
        status, messages = await client.stream("POST", "/images/load", data=archive)
        assert status == 200
        step = messages[-2]
        assert (step["status"], len(step["id"])) == ("Loading layer", 12)
        assert step["progressDetail"]["current"] == step["progressDetail"]["total"] > 0
        assert step["progress"].startswith("[====")
        assert messages[-1] == {"stream": "Loaded image: other:x\n"}
        assert (await client.ask("GET", "/images/other:x/json"))[1]["Id"] == images[0].id
        for quiet in ("1", "true"):
            _status, messages = await client.stream("POST", f"/images/load?quiet={quiet}", data=archive)
            assert messages == [{"stream": "Loaded image: other:x\n"}]

    async def test_a_bad_archive_is_a_bad_request(self, client: Client) -> None:
        status, body = await client.ask("POST", "/images/load", data=b"nonsense" * 200)
        assert status == 400, body


class TestPushAndImport:
    @pytest.mark.promise(
        "images.push.status.200", "images.push.response.status", "images.push.b3",
        "images.push.body.X-Registry-Auth", "images.push.body.X-Registry-Auth.username",
        "images.push.body.X-Registry-Auth.password", "images.create.b13", "images.create.body.X-Registry-Auth",
        "images.create.body.X-Registry-Auth.username", "images.create.body.X-Registry-Auth.password",
    )  # fmt: skip
    async def test_with_a_header(self, client: Client, registry: RegistryServer) -> None:
        registry.tokens_needed, registry.password = True, "secret"
        name, image = f"{registry.host}/team/app", two_layers()
        await client.stream("POST", "/images/load", data=docker_archive(image, f"{name}:v1"))
        login = base64.urlsafe_b64encode(json.dumps({"username": "user", "password": "secret"}).encode()).decode()
        status, body = await client.ask("POST", f"/images/{name}/push?tag=v1")
        assert status == 404, body
        status, messages = await client.stream(
            "POST", f"/images/{name}/push?tag=v1", headers={"X-Registry-Auth": login}
        )
        assert status == 200
        assert messages[0]["status"] == f"The push refers to repository [{name}]"
        assert ("team/app", "v1") in registry.manifests
        await client.ask("DELETE", f"/images/{image.id}?force=1")
        status, messages = await client.stream(
            "POST", f"/images/create?fromImage={name}&tag=v1", headers={"X-Registry-Auth": login}
        )
        assert messages[-1]["status"].startswith("Status: Downloaded newer image")

    @pytest.mark.promise(
        "images.push.body.X-Registry-Auth.identitytoken", "images.create.body.X-Registry-Auth.identitytoken"
    )
    async def test_with_an_identity_token(self, client: Client, registry: RegistryServer) -> None:
        registry.tokens_needed, registry.identity = True, "an-identity"
        name = f"{registry.host}/app"
        await client.stream("POST", "/images/load", data=docker_archive(two_layers(), f"{name}:v1"))
        for token, works in (("wrong", False), ("an-identity", True)):
            login = base64.urlsafe_b64encode(json.dumps({"identitytoken": token}).encode()).decode()
            headers = {"X-Registry-Auth": login}
            status, _messages = await client.stream("POST", f"/images/{name}/push?tag=v1", headers=headers)
            assert (status == 200) is works
            status, _messages = await client.stream("POST", f"/images/create?fromImage={name}:v1", headers=headers)
            assert (status == 200) is works

    @pytest.mark.promise("images.push.b8", "images.push.response.error")
    async def test_a_push_that_breaks_off(self, client: Client, registry: RegistryServer) -> None:
        await client.stream("POST", "/images/load", data=docker_archive(two_layers(), f"{registry.host}/app:v1"))
        registry.fault = lambda request, _seen: aiohttp.web.Response(status=507) if request.method == "PUT" else None
        status, messages = await client.stream("POST", f"/images/{registry.host}/app/push?tag=v1")
        assert status == 200
        assert "507" in messages[-1]["error"]
        assert registry.manifests == {}

    @pytest.mark.promise("images.create.query.fromSrc", "images.create.body._stream", "images.create.b9")
    async def test_import_from_the_body(self, client: Client) -> None:
        status, messages = await client.stream(
            "POST", "/images/create?fromSrc=-&repo=mine&tag=1&message=hello", data=files({"f": b"1"})
        )
        assert status == 200
        _status, body = await client.ask("GET", "/images/mine:1/json")
        assert body["Id"] == messages[-1]["status"]
        assert body["Comment"] == "hello"

    @pytest.mark.promise("images.create.b6")
    async def test_import_from_an_url(self, client: Client, registry: RegistryServer) -> None:
        archive = files({"f": b"1"})
        registry.blobs["root.tar"] = archive
        source = f"http://{registry.host}/v2/x/blobs/root.tar"
        status, messages = await client.stream("POST", f"/images/create?fromSrc={source}&repo=mine:2")
        assert status == 200, messages
        assert (await client.ask("GET", "/images/mine:2/json"))[1]["RootFS"]["Layers"] == [digest_of(archive)]
        status, body = await client.ask("POST", f"/images/create?fromSrc={source}.nope")
        assert status == 500, body


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

    async def test_push(self, client: Client, registry: RegistryServer) -> None:
        name = f"{registry.host}/app:v1"
        await client.stream("POST", "/images/load", data=docker_archive(two_layers(), name))
        status, out, err = await client.docker("push", name)
        assert status == 0, err
        assert f"v1: digest: {digest_of(registry.manifests['app', 'v1'][0])}" in out

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
