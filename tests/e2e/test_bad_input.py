"""Bad input to a single host: a clear error, the right status, nothing left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.lab import Lab
from lab.paths import LabError
from lab.wait import until
from tests.e2e.client import Docker


@pytest.fixture(autouse=True)
def _nothing_left(single: Lab, docker: Docker) -> Iterator[None]:
    """Whatever was refused must not leave a container, mount, link or rule."""
    before = _traces(single, docker)
    yield
    left = docker.ok("ps", "-aq").split()
    if left:
        docker.ok("rm", "-f", *left)
    with contextlib.suppress(LabError):  # the kernel takes a network namespace and its links apart in the background
        until(lambda: _traces(single, docker) == before, timeout_s=10, what="nothing to be left")
    assert _traces(single, docker) == before


def _traces(single: Lab, docker: Docker) -> dict[str, list[str]]:
    pid = str(single.host("m1").daemon.pid)  # type: ignore[union-attr]
    mounts = [line.split()[1] for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()]
    links = single.run("m1", "ip", "-br", "link").stdout.splitlines()
    return {
        "containers": docker.ok("ps", "-aq").split(),
        "mounts": sorted(m for m in mounts if m.startswith(("/var/lib", "/run"))),
        "links": sorted(line.split()[0] for line in links),
        "disk": single.run("m1", "ls", "/var/lib/shoal/containers").stdout.split(),
    }


@pytest.mark.promise("containers.create.b2", "containers.create.status.404")
def test_unknown_image(docker: Docker) -> None:
    answer = docker.http("POST", "/v1.24/containers/create", {"Image": "nosuch"})
    assert (answer.status, answer.message) == (404, "No such image: nosuch:latest")
    done = docker.run("run", "--rm", "nosuch/image", "true")
    assert done.code == 125
    assert "nosuch/image" in done.err


@pytest.mark.promise("containers.create.b4", "containers.create.status.409")
def test_name_in_use(docker: Docker) -> None:
    identity = docker.ok("create", "--name", "taken", "busybox", "true")
    answer = docker.http("POST", "/v1.24/containers/create?name=taken", {"Image": "busybox"})
    assert answer.status == 409
    assert 'The container name "/taken" is already in use by container' in answer.message
    assert identity in answer.message


@pytest.mark.promise("containers.create.b3", "containers.create.status.400")
@pytest.mark.parametrize(
    ("body", "names"),
    [
        ('{"Image": "busybox"', ""),
        ('{"Image": 5}', "Image"),
        ('{"Image": "busybox", "HostConfig": {"Memory": "much"}}', "Memory"),
        ('{"Image": "busybox", "Env": {"A": "b"}}', "Env"),
        ("[]", ""),
        (b"\xff\xfe", ""),
    ],
)
def test_malformed_or_mistyped_json(docker: Docker, body: str | bytes, names: str) -> None:
    answer = docker.http("POST", "/v1.24/containers/create?name=x", body)
    assert answer.status == 400
    assert names in answer.message
    assert answer.headers["content-type"].startswith("application/json")


def test_missing_body(docker: Docker) -> None:
    assert docker.http("POST", "/v1.24/containers/create").status == 400
    assert docker.http("POST", "/v1.24/swarm/init").status == 400


@pytest.mark.parametrize("query", ["?filters={", "?filters=5", "?limit=x"])
@pytest.mark.promise("containers.list.b19", "containers.list.status.400")
def test_bad_parameters_of_a_list(docker: Docker, query: str) -> None:
    assert docker.http("GET", f"/v1.24/containers/json{query}").status == 400


@pytest.mark.promise("services.list.b2", "services.list.status.406", "nodes.list.b2", "nodes.list.status.406")
def test_swarm_calls_outside_a_swarm(docker: Docker) -> None:
    for path in ("/services", "/nodes", "/tasks", "/swarm"):
        answer = docker.http("GET", f"/v1.24{path}")
        assert answer.status == 406, path
        assert "This node is not a swarm manager" in answer.message
    answer = docker.http("POST", "/v1.24/services/create", {"Name": "x"})
    assert answer.status == 406


@pytest.mark.promise("swarm.join.b6", "swarm.join.status.400")
@pytest.mark.parametrize("token", ["", "nonsense", "SWMTKN-1-short-short"])
def test_join_with_a_malformed_token(docker: Docker, token: str) -> None:
    body = {"ListenAddr": "0.0.0.0:2377", "RemoteAddrs": ["10.99.0.11:2377"], "JoinToken": token}
    answer = docker.http("POST", "/v1.24/swarm/join", body)
    assert answer.status == 400
    assert "token" in answer.message.lower()
    assert docker.ok("info", "--format", "{{.Swarm.LocalNodeState}}") == "inactive"


@pytest.mark.promise("general.unsupported-version.b1")
def test_versions_out_of_range(docker: Docker) -> None:
    new = docker.http("GET", "/v1.99/version")
    assert (new.status, "client version 1.99 is too new" in new.message) == (400, True)
    old = docker.http("GET", "/v1.2/version")
    assert (old.status, "client version 1.2 is too old" in old.message) == (400, True)


def test_port_in_use(single: Lab, docker: Docker) -> None:
    docker.ok("run", "-d", "--name", "first", "-p", "8081:80", "busybox", "sleep", "1000")
    done = docker.run("run", "-d", "--name", "second", "-p", "8081:80", "busybox", "sleep", "1000")
    assert done.code == 125
    assert "port is already allocated" in done.err
    assert docker.state("second")["Running"] is False
    docker.ok("rm", "-f", "first")
    # The port is free again, and the refused container is none the worse.
    docker.ok("start", "second")


def test_a_port_that_another_program_holds(single: Lab, docker: Docker) -> None:
    holder = single.run("m1", "sh", "-c", "busybox nc -l -p 8082 >/dev/null 2>&1 & echo $!").stdout.strip()
    try:
        done = docker.run("run", "-d", "-p", "8082:80", "busybox", "sleep", "1000")
        assert done.code == 125
        assert "8082" in done.err
    finally:
        single.run("m1", "kill", holder)


def test_a_command_that_does_not_exist(docker: Docker) -> None:
    done = docker.run("run", "--rm", "busybox", "nosuchprogram")
    assert done.code == 127
    assert "nosuchprogram" in done.err
    assert docker.run("run", "--rm", "busybox", "/etc").code == 126


@pytest.mark.promise("containers.start.status.404", "containers.stop.status.404", "containers.wait.status.404")
def test_unknown_container(docker: Docker) -> None:
    for action in ("start", "stop", "kill", "wait", "restart", "pause", "unpause"):
        answer = docker.http("POST", f"/v1.24/containers/nosuch/{action}")
        assert answer.status == 404, action
        before = "Cannot kill container: nosuch: " if action == "kill" else ""  # dockerd's words for each
        assert answer.message == f"{before}No such container: nosuch"


@pytest.mark.promise("containers.start.b2", "containers.stop.b3", "containers.start.status.304")
def test_already_started_and_already_stopped(docker: Docker) -> None:
    docker.ok("run", "-d", "--name", "twice", "busybox", "sleep", "1000")
    assert docker.http("POST", "/v1.24/containers/twice/start").status == 304
    docker.ok("kill", "twice")
    docker.ok("wait", "twice")
    assert docker.http("POST", "/v1.24/containers/twice/stop").status == 304
