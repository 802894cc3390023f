"""Info, version, ping, the general rules of the API, CORS and the life of `docker run`, over the real API."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from lab.lab import Lab, running
from tests.e2e.client import Docker
from tests.e2e.conftest import RUN
from tests.e2e.fields import Kinds, assert_fields, promises

TEXTS = """
    Architecture ClusterStore CgroupDriver DockerRootDir Driver HttpProxy HttpsProxy ID IndexServerAddress InitPath
    InitSha1 KernelVersion Name NoProxy OSType OperatingSystem ServerVersion SystemTime Labels[] SecurityOptions[]
    DriverStatus[][] Plugins.Volume[] Plugins.Network[] RegistryConfig.InsecureRegistryCIDRs[]
    RegistryConfig.IndexConfigs.<index>.Name
"""
NUMBERS = """
    Containers ContainersRunning ContainersStopped ContainersPaused Images MemTotal NCPU NEventsListener NFd NGoroutines
"""
TRUTHS = """
    CpuCfsPeriod CpuCfsQuota Debug ExperimentalBuild IPv4Forwarding KernelMemory MemoryLimit OomKillDisable SwapLimit
    RegistryConfig.IndexConfigs.<index>.Official RegistryConfig.IndexConfigs.<index>.Secure
"""
OBJECTS = "Plugins RegistryConfig RegistryConfig.IndexConfigs RegistryConfig.IndexConfigs.<index>"
INFO: dict[str, Kinds] = {
    **dict.fromkeys(TEXTS.split(), str),
    **dict.fromkeys(NUMBERS.split(), int),
    **dict.fromkeys(TRUTHS.split(), bool),
    **dict.fromkeys(OBJECTS.split(), dict),
    "RegistryConfig.IndexConfigs.<index>.Mirrors": list,
}
VERSION: dict[str, Kinds] = {
    "Version": str,
    "Os": str,
    "KernelVersion": str,
    "GoVersion": str,
    "GitCommit": str,
    "Arch": str,
    "ApiVersion": str,
    "BuildTime": str,
    "Experimental": bool,
}


@pytest.mark.promise(
    *promises("misc.info", INFO),
    "misc.info.status.200",
    "misc.info.response.SystemStatus[][]",
    *(f"misc.info.b{n}" for n in range(1, 7)),
)
def test_info(docker: Docker) -> None:
    docker.ok("run", "-d", "--name", "runs", "busybox", "sleep", "99")
    docker.ok("run", "-d", "--name", "paused", "busybox", "sleep", "99")
    docker.ok("pause", "paused")
    docker.ok("create", "--name", "made", "busybox")
    answer = docker.http("GET", "/v1.24/info")
    assert answer.status == 200
    info = answer.value
    # The lab's engine has no labels of its own; the list is there, and test_labels fills it.
    assert info["Labels"] == []
    assert_fields(info | {"Labels": ["a=b"]}, INFO)
    counts = [info[f"Containers{each}"] for each in ("Running", "Paused", "Stopped")]
    assert counts == [1, 1, 1]
    assert info["Containers"] == sum(counts)
    assert all(type(pair) is list and len(pair) == 2 for pair in info["DriverStatus"])
    assert info["SystemStatus"] is None  # as dockerd without a cluster store: an empty array of arrays
    assert info["Plugins"]["Volume"][0] == "local"
    assert {"bridge", "host", "null"} <= set(info["Plugins"]["Network"])
    assert info["RegistryConfig"]["IndexConfigs"]["docker.io"]["Official"] is True
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d)", info["SystemTime"])
    assert info["OSType"] == "linux"
    assert info["NCPU"] >= 1
    assert info["MemTotal"] > 1 << 20


@pytest.mark.promise(*promises("misc.version", VERSION), "misc.version.b1", "misc.version.b2", "misc.version.b3")
def test_version(docker: Docker) -> None:
    answer = docker.http("GET", "/v1.24/version")
    assert answer.status == 200
    assert_fields(answer.value, VERSION)
    assert answer.value["ApiVersion"] == "1.24"
    assert answer.value["Os"] == "linux"


@pytest.mark.promise(
    "misc.ping.b1",
    "misc.ping.b2",
    "misc.ping.status.200",
    "general.rest-and-hijack.b1",
    "general.version-prefix.b1",
    "general.version-prefix.b2",
    "general.errors.b1",
    "general.errors.b2",
    "general.errors.b3",
)
def test_ping_versions_and_unknown_pages(docker: Docker) -> None:
    ping = docker.http("GET", "/_ping")
    assert (ping.status, ping.body, ping.headers["content-type"].split(";")[0]) == (200, b"OK", "text/plain")
    assert docker.http("GET", "/v1.24/_ping").body == b"OK"
    assert docker.http("GET", "/version").value == docker.http("GET", "/v1.24/version").value
    for method, path in (("GET", "/nosuch"), ("POST", "/v1.24/nosuch"), ("DELETE", "/info")):
        missing = docker.http(method, path)
        assert (missing.status, missing.value) == (404, {"message": "page not found"}), path


@pytest.mark.promise("general.content-length.b1")
def test_bodies_by_length_and_by_chunks(single: Lab) -> None:
    """A Content-Length is what a POST should carry; a client that sends chunks is understood, too."""
    body = b'{"Name": "counted"}'
    heads = (
        (b"Content-Length: %d" % len(body), body),
        (b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)),
    )
    for header, data in heads:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(single.socket("m1")))
            head = b"POST /v1.24/volumes/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            link.sendall(head + header + b"\r\n\r\n" + data)
            assert link.recv(100).startswith(b"HTTP/1.1 201"), header
    Docker(single.socket("m1")).ok("volume", "rm", "counted")


@pytest.mark.promise(
    *(f"further.docker-run.b{n}" for n in (1, 3, 4, 5)),
    "further.docker-run.status.404",
    "general.rest-and-hijack.b2",
)
def test_docker_run_by_hand(docker: Docker) -> None:
    """The steps that the document gives for `docker run`, as a client makes them."""
    missing = docker.http("POST", "/v1.24/containers/create", {"Image": "nosuch:1", "Cmd": ["true"]})
    assert (missing.status, "No such image: nosuch:1" in missing.message) == (404, True)
    command = ["sh", "-c", "echo from-the-start; echo err >&2; sleep 1; echo later"]
    made = docker.http("POST", "/v1.24/containers/create", {"Image": "busybox", "Cmd": command})
    assert made.status == 201
    path = f"/v1.24/containers/{made.value['Id']}"
    assert docker.http("POST", f"{path}/start").status == 204
    assert docker.http("POST", f"{path}/start").status == 304
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(20)
        link.connect(str(docker.path))
        query = "logs=1&stream=1&stdout=1&stderr=1"
        head = f"POST {path}/attach?{query} HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n"
        link.sendall(head.encode())
        raw = b""
        while data := link.recv(65536):
            raw += data
    head_bytes, _, stream = raw.partition(b"\r\n\r\n")
    assert head_bytes.startswith(b"HTTP/1.1 101 UPGRADED")
    parts: dict[int, bytes] = {1: b"", 2: b""}
    while stream:
        size = int.from_bytes(stream[4:8], "big")
        parts[stream[0]] += stream[8 : 8 + size]
        stream = stream[8 + size :]
    assert parts == {1: b"from-the-start\nlater\n", 2: b"err\n"}


@pytest.mark.promise("further.docker-run.b2", "further.docker-run.b6")
def test_docker_run_pulls_what_is_missing_and_shows_the_id(docker: Docker) -> None:
    docker.run("rmi", "-f", "alpine")
    done = docker.run("run", "-d", "alpine", "sleep", "99")
    assert done.code == 0, done.err
    assert "Unable to find image 'alpine:latest' locally" in done.err
    assert done.out.strip() == docker.ok("ps", "-q", "--no-trunc")
    docker.ok("rm", "-f", done.out.strip())
    docker.ok("rmi", "-f", "alpine")


@pytest.mark.promise("further.cors.b1", "further.cors.b2", "further.cors.b3", "further.cors.b4", "general.listen.b2")
def test_cors_labels_and_a_listener_of_ones_own(docker: Docker, tmp_path: Path) -> None:
    origin = {"Origin": "http://foo.bar"}
    plain = docker.http("GET", "/v1.24/info", **origin)
    assert not [name for name in plain.headers if name.startswith("access-control")]
    extra = ["--api-cors-header=*", "--label", "rack=7", "-H", f"unix://{tmp_path}/second.sock"]
    with running(f"{RUN}-cors", registry=False, daemon_args=extra):
        second = Docker(tmp_path / "second.sock")
        answer = second.http("GET", "/v1.24/info", **origin)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.value["Labels"] == ["rack=7"]
    with running(f"{RUN}-cors", registry=False, daemon_args=["--api-cors-header=http://foo.bar"]) as lab:
        answer = Docker(lab.socket("m1")).http("OPTIONS", "/v1.24/containers/json", **origin)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "http://foo.bar"
