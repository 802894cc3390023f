"""POST /commit, and what else is promised of images, against a host's engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from lab.lab import Lab
from lab.unixhttp import Answer
from lab.wait import until
from tests.e2e.builds import basic_registry, build, context, run
from tests.e2e.client import Docker

COMMIT = "misc.commit"


def commit(docker: Docker, query: str, body: Mapping[str, Any] | None = None) -> Answer:
    return docker.http("POST", f"/v1.24/commit?{query}", None if body is None else dict(body))


@pytest.fixture
def container(docker: Docker) -> str:
    """A stopped container that has written something."""
    command = "echo new > /new; rm /bin/ls; rm -rf /var; mkdir /var; echo only > /var/only; ln /new /linked"
    docker.ok("run", "--name", "source", "-e", "OWN=1", "busybox", "sh", "-c", command)
    return docker.ok("ps", "-aqf", "name=source", "--no-trunc")


@pytest.mark.promise(
    f"{COMMIT}.b1", f"{COMMIT}.b3", f"{COMMIT}.status.201", f"{COMMIT}.query.container", f"{COMMIT}.query.repo",
    f"{COMMIT}.query.tag", f"{COMMIT}.query.comment", f"{COMMIT}.query.author", f"{COMMIT}.response.Id",
    "images.history.response.[].Comment",
)  # fmt: skip
def test_the_changes_of_a_container(docker: Docker, container: str) -> None:
    answer = commit(docker, "container=source&repo=made&tag=v1&comment=a+message&author=Me+%3Cme%40example.com%3E")
    assert answer.status == 201
    image = docker.inspect("made:v1")
    assert answer.value == {"Id": image["Id"]}
    assert (image["Comment"], image["Author"]) == ("a message", "Me <me@example.com>")
    assert image["Container"] == container
    assert "OWN=1" in image["Config"]["Env"]
    assert run(docker, "made:v1", "sh", "-c", "cat /new /linked /var/*; test -e /bin/ls || echo gone") == (
        "new\nnew\nonly\ngone"
    )
    history = docker.http("GET", "/v1.24/images/made:v1/history").value
    assert (history[0]["Comment"], history[0]["Id"]) == ("a message", image["Id"])
    assert history[0]["Size"] > 0
    docker.ok("rmi", "made:v1")


@pytest.mark.promise(f"{COMMIT}.b6", f"{COMMIT}.status.404")
def test_an_unknown_container(docker: Docker) -> None:
    answer = commit(docker, "container=nobody")
    assert (answer.status, answer.message) == (404, "No such container: nobody")


@pytest.mark.promise(f"{COMMIT}.b5", f"{COMMIT}.query.changes")
def test_changes(docker: Docker, container: str) -> None:
    changes = ["ENV A=1 B=$A", "CMD echo hello", "EXPOSE 80/udp", "LABEL k=v", "USER nobody", "WORKDIR /tmp",
               "VOLUME /data", "ONBUILD RUN true", "STOPSIGNAL SIGUSR1"]  # fmt: skip
    docker.ok("commit", *[word for change in changes for word in ("-c", change)], "source", "changed")
    config = docker.inspect("changed")["Config"]
    assert {"A=1", "OWN=1"} <= set(config["Env"])
    assert config["Cmd"] == ["/bin/sh", "-c", "echo hello"]
    assert config["ExposedPorts"] == {"80/udp": {}}
    assert (config["Labels"], config["User"], config["WorkingDir"]) == ({"k": "v"}, "nobody", "/tmp")
    assert (config["Volumes"], config["OnBuild"]) == ({"/data": {}}, ["RUN true"])
    assert config["StopSignal"] == "SIGUSR1"
    assert commit(docker, "container=source&changes=RUN+x").message == "run is not a valid change command"
    assert commit(docker, "container=source&repo=UPPER").status == 400
    docker.ok("rmi", "changed")


@pytest.mark.promise(
    f"{COMMIT}.b2", f"{COMMIT}.body.config", f"{COMMIT}.body.Hostname", f"{COMMIT}.body.Domainname",
    f"{COMMIT}.body.User", f"{COMMIT}.body.AttachStdin", f"{COMMIT}.body.AttachStdout", f"{COMMIT}.body.AttachStderr",
    f"{COMMIT}.body.Tty", f"{COMMIT}.body.OpenStdin", f"{COMMIT}.body.StdinOnce", f"{COMMIT}.body.Env",
    f"{COMMIT}.body.Cmd", f"{COMMIT}.body.Labels", f"{COMMIT}.body.WorkingDir", f"{COMMIT}.body.NetworkDisabled",
    f"{COMMIT}.body.ExposedPorts",
)  # fmt: skip
def test_a_configuration_of_ones_own(docker: Docker, container: str) -> None:
    body = {
        "Hostname": "host1", "Domainname": "example.com", "User": "1:1", "AttachStdin": True, "AttachStdout": True,
        "AttachStderr": True, "Tty": True, "OpenStdin": True, "StdinOnce": True, "Env": None, "Cmd": ["date"],
        "Labels": {"key1": "value1"}, "WorkingDir": "/srv", "NetworkDisabled": True, "ExposedPorts": {"22/tcp": {}},
    }  # fmt: skip
    answer = commit(docker, "container=source&repo=own", body)
    assert answer.status == 201
    config = docker.inspect("own")["Config"]
    assert {key: config[key] for key in body if key != "Env"} == {key: body[key] for key in body if key != "Env"}
    assert "OWN=1" in config["Env"], "what the request leaves out is the container's"
    docker.ok("rmi", "own")


@pytest.mark.promise(f"{COMMIT}.b4", f"{COMMIT}.query.pause")
def test_pause(docker: Docker) -> None:
    docker.ok("run", "-d", "--name", "running", "busybox", "sleep", "600")
    with docker.start("events", "--filter", "container=running", "--format", "{{.Action}}") as events:
        assert events.stdout is not None
        until(lambda: docker.http("GET", "/v1.24/info").status == 200, timeout_s=5, what="the engine")
        docker.ok("commit", "--pause=false", "running", "unpaused")
        docker.ok("commit", "running", "paused")
        docker.ok("rm", "-f", "running")
        seen = []
        for line in events.stdout:
            seen.append(line.strip())
            if line.strip() == "destroy":
                break
        events.kill()
    assert seen[: seen.index("kill")][-4:] == ["commit", "pause", "unpause", "commit"]
    docker.ok("rmi", "unpaused", "paused")


@pytest.mark.promise("misc.auth.b1", "misc.auth.body.username", "misc.auth.body.password",
                     "misc.auth.body.serveraddress", "misc.auth.status.500")  # fmt: skip
def test_log_in(single: Lab, docker: Docker) -> None:
    with basic_registry(single, "m1", "s3cret") as registry:
        login = {"username": "user", "password": "s3cret", "serveraddress": registry}
        good = docker.http("POST", "/v1.24/auth", login)
        assert (good.status, good.value["Status"]) == (200, "Login Succeeded")
        assert docker.http("POST", "/v1.24/auth", login | {"serveraddress": f"https://{registry}/v1/"}).status == 200
        wrong = docker.http("POST", "/v1.24/auth", login | {"password": "guess"})
        assert wrong.status == 401
        assert "unauthorized" in wrong.message
    assert docker.http("POST", "/v1.24/auth", login | {"serveraddress": "127.0.0.1:1"}).status == 500
    assert docker.http("POST", "/v1.24/auth", login | {"serveraddress": "no spaces allowed"}).status == 400


@pytest.mark.promise("images.search.status.500", "images.search.b1")
def test_search_without_an_index(docker: Docker) -> None:
    answer = docker.http("GET", "/v1.24/images/search?term=sshd")
    assert answer.status == 500
    assert "index.docker.io" in answer.message


@pytest.mark.promise("plugins.list.status.200", "plugins.inspect.status.404", "plugins.enable.status.404",
                     "plugins.disable.status.404", "plugins.remove.status.404")  # fmt: skip
def test_there_are_no_plugins(docker: Docker) -> None:
    assert docker.http("GET", "/v1.24/plugins").value == []
    for method, path in (("GET", "x"), ("POST", "x/enable"), ("POST", "x/disable"), ("DELETE", "x")):
        answer = docker.http(method, f"/v1.24/plugins/{path}")
        assert (answer.status, answer.message) == (404, 'plugin "x" not found')


class TestImages:
    @pytest.mark.promise("images.list.b5", "images.list.b15", "images.list.query.filters",
                         "images.list.response.[].Labels", "images.list.response.[].ParentId",
                         "images.inspect.response.RepoDigests[]")  # fmt: skip
    def test_list(self, docker: Docker) -> None:
        built = build(docker, context("FROM busybox\nENV only=this\n"), {"t": "listed"})
        filters = json.dumps({"reference": ["listed"]})
        (row,) = docker.http("GET", f"/v1.24/images/json?filters={filters.replace(' ', '')}").value
        assert row["RepoTags"] == ["listed:latest"]
        assert row["RepoDigests"] == []
        assert row["Labels"] == {}
        assert row["ParentId"] == docker.inspect("busybox")["Id"]
        assert row["Id"].startswith(f"sha256:{built.image}")
        docker.ok("rmi", "listed", "busybox")
        docker.ok("pull", "-q", "busybox")
        digests = docker.inspect("busybox")["RepoDigests"]
        assert [digest.partition(":")[0] for digest in digests] == ["busybox@sha256"]

    @pytest.mark.promise("images.remove.query.noprune")
    def test_noprune(self, docker: Docker) -> None:
        archive = context("FROM busybox\nENV first=1\nENV second=1\n")
        for query, left in (("?noprune=1", 1), ("", 0)):
            build(docker, archive, {"t": "pruned"})
            parent = docker.inspect("pruned")["Parent"]
            docker.http("DELETE", f"/v1.24/images/pruned{query}")
            assert (docker.http("GET", f"/v1.24/images/{parent}/json").status == 200) is bool(left)
