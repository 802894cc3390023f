"""docker-py and aiodocker, used as their users would: containers, exec, volumes, networks, events."""

from __future__ import annotations

import asyncio
import gc
import io
import tarfile
import threading
from pathlib import Path
from typing import Any

import aiodocker
import docker
import docker.errors
import pytest

from tests.integration.shoald import Api

pytestmark = [
    pytest.mark.root,
    # docker-py leaves the sockets of streams to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning"),
]


@pytest.fixture
def client(api: Api) -> Any:
    """docker-py at the version that is served."""
    made = docker.DockerClient(base_url=f"unix://{api.path}", version="1.24", timeout=30)
    yield made
    made.close()
    gc.collect()


def test_docker_py_containers(client: Any, tmp_path: Path) -> None:
    assert client.ping()
    out = client.containers.run("busybox", ["sh", "-c", "echo $WORD; id -u"], environment={"WORD": "hello"}, user="7")
    assert out == b"hello\n7\n"
    with pytest.raises(docker.errors.ContainerError) as failed:
        client.containers.run("busybox", ["sh", "-c", "echo oops >&2; exit 3"], remove=True)
    assert (failed.value.exit_status, failed.value.stderr) == (3, b"oops\n")
    with pytest.raises(docker.errors.ImageNotFound):
        client.containers.create("nothing-like-this")

    box = client.containers.run(
        "busybox",
        ["sh", "-c", "trap exit TERM; echo ready; while true; do sleep 0.1; done"],
        name="box",
        detach=True,
        labels={"tier": "web"},
        ports={"80/tcp": 8082},
        volumes={str(tmp_path): {"bind": "/host", "mode": "rw"}},
        mem_limit="64m",
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 3},
    )
    assert next(box.logs(stream=True, follow=True)) == b"ready\n"
    assert client.containers.get("box").id == box.id
    assert [one.name for one in client.containers.list(filters={"label": "tier=web"})] == ["box"]
    assert box.exec_run(["sh", "-c", "echo in > /host/file; echo told"]) == (0, b"told\n")
    assert (tmp_path / "file").read_text() == "in\n"
    code, (stdout, stderr) = box.exec_run(["sh", "-c", "echo a; echo b >&2; exit 5"], demux=True)
    assert (code, stdout, stderr) == (5, b"a\n", b"b\n")
    assert b"".join(box.exec_run(["seq", "3"], stream=True).output) == b"1\n2\n3\n"

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("put")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"12345"))
    assert box.put_archive("/tmp", buffer.getvalue())
    pieces, stat = box.get_archive("/tmp/put")
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
        assert tar.extractfile("put").read() == b"12345"  # type: ignore[union-attr]
    assert (stat["name"], stat["size"]) == ("put", 5)
    assert {"Path": "/tmp/put", "Kind": 1} in box.diff()

    assert box.stats(stream=False)["memory_stats"]["limit"] == 64 << 20
    assert any("sleep" in " ".join(row) or "sh" in " ".join(row) for row in box.top()["Processes"])
    box.pause()
    box.reload()
    assert box.status == "paused"
    box.unpause()
    box.update(mem_limit="96m", memswap_limit="192m")
    box.rename("crate")
    box.reload()
    assert (box.name, box.status, box.attrs["HostConfig"]["Memory"]) == ("crate", "running", 96 << 20)
    box.stop(timeout=5)
    assert box.wait()["StatusCode"] in (0, 143)
    box.start()
    box.kill()
    box.remove()
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("crate")


def test_docker_py_streams(client: Any) -> None:
    box = client.containers.create("busybox", "cat", stdin_open=True, tty=False)
    taken = box.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    box.start()
    taken._sock.sendall(b"through\n")
    assert taken.read(8 + 8) == b"\x01\0\0\0\0\0\0\x08through\n"
    taken.close()
    made = client.api.exec_create(box.id, "cat", stdin=True, tty=True)
    plain = client.api.exec_start(made, socket=True, tty=True)
    plain._sock.sendall(b"typed\n")
    assert b"typed" in plain.read(5)
    client.api.exec_resize(made, height=20, width=30)
    plain.close()
    box.remove(force=True)


def test_docker_py_volumes_networks_events(client: Any) -> None:
    events = client.events(decode=True, filters={"type": ["container", "network", "volume"]})
    seen: list[tuple[str, str]] = []

    def listen() -> None:
        for event in events:
            seen.append((event["Type"], event["Action"]))
            if seen[-1] == ("network", "destroy"):
                return

    listener = threading.Thread(target=listen)
    listener.start()
    volume = client.volumes.create("data", labels={"keep": "yes"})
    network = client.networks.create(
        "blue", ipam=docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.78.0.0/24")])
    )
    first = client.containers.run(
        "busybox", "sleep 1000", name="first", network="blue", detach=True, volumes=["data:/d"]
    )
    assert client.containers.run("busybox", "ping -c1 -W3 first", network="blue", remove=True).startswith(b"PING first")
    second = client.containers.run("busybox", "sleep 1000", name="second", detach=True)
    network.connect(second, aliases=["nick"], ipv4_address="10.78.0.9")
    second.reload()
    assert second.attrs["NetworkSettings"]["Networks"]["blue"]["IPAddress"] == "10.78.0.9"
    assert first.exec_run("ping -c1 -W3 nick").exit_code == 0
    network.reload()
    assert {one.name for one in network.containers} == {"first", "second"}
    network.disconnect(second)
    with pytest.raises(docker.errors.APIError) as busy:
        volume.remove()
    assert busy.value.status_code == 409
    for box in (first, second):
        box.remove(force=True)
    assert [one.name for one in client.volumes.list(filters={"label": "keep=yes"})] == ["data"]
    volume.remove()
    network.remove()
    listener.join(20)
    assert not listener.is_alive()
    assert {("volume", "create"), ("network", "connect"), ("container", "start"), ("volume", "destroy")} <= set(seen)


def test_aiodocker(api: Api) -> None:
    async def body() -> None:
        async with aiodocker.Docker(url=f"unix://{api.path}", api_version="v1.24") as client:
            heard = client.events.subscribe()
            config: dict[str, Any] = {
                "Image": "busybox",
                "Cmd": ["sh", "-c", "echo ready; exec cat"],
                "OpenStdin": True,
            }
            box = await client.containers.create_or_replace("box", config)
            async with box.attach(stdin=True, stdout=True, stderr=True) as stream:
                await box.start()
                assert (await stream.read_out()).data == b"ready\n"
                await stream.write_in(b"through\n")
                assert (await stream.read_out()).data == b"through\n"
            assert await box.log(stdout=True) == ["ready\n", "through\n"]
            assert (await box.show())["State"]["Running"]
            run = await box.exec(["sh", "-c", "echo told; exit 4"])
            async with run.start(detach=False) as output:
                assert (await output.read_out()).data == b"told\n"
                assert await output.read_out() is None
            assert (await run.inspect())["ExitCode"] == 4
            assert [one.id for one in await client.containers.list()] == [box.id]
            volume = await client.volumes.create({"Name": "data"})
            assert (await volume.show())["Name"] == "data"
            network = await client.networks.create({"Name": "blue"})
            await network.connect({"Container": box.id})
            assert box.id in (await network.show())["Containers"]
            await network.disconnect({"Container": box.id})
            await box.kill()
            assert (await box.wait())["StatusCode"] == 137
            await box.delete(force=True)
            await volume.delete()
            await network.delete()
            actions = set()
            async with asyncio.timeout(10):
                while "destroy" not in actions or ("network", "destroy") not in actions:
                    event = await heard.get()
                    actions |= {event["Action"], (event["Type"], event["Action"])}
            assert {"create", "start", "die", "connect"} <= actions
            with pytest.raises(aiodocker.DockerError) as missing:
                await client.containers.get("box")
            assert missing.value.status == 404

    asyncio.run(body())
