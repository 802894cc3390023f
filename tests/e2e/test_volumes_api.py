"""Volumes over the real API: every field, body key, filter and status of the document, and a volume plugin."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.hosts import host_run
from lab.lab import Lab
from lab.paths import ROOT
from lab.wait import until
from tests.e2e.client import Docker
from tests.e2e.fields import Kinds, assert_fields, promises

NOTHING = type(None)
VOLUME: dict[str, Kinds] = {
    "Name": str,
    "Driver": str,
    "Mountpoint": str,
    "Status": dict,
    "Status.<key>": (int, dict),
    "Labels": dict,
    "Labels.<label>": str,
    "Scope": str,
}
LISTED: dict[str, Kinds] = {
    "Volumes[]": dict,
    "Volumes[].Name": str,
    "Volumes[].Driver": str,
    "Volumes[].Mountpoint": str,
    "Volumes[].Labels": (dict, NOTHING),
    "Volumes[].Scope": str,
    "Warnings[]": str,
}


@pytest.fixture(autouse=True)
def _no_volumes(docker: Docker) -> Iterator[None]:
    yield
    docker.run("rm", "-f", *docker.ok("ps", "-aq").split(), "none")
    if left := docker.ok("volume", "ls", "-q").split():
        docker.ok("volume", "rm", *left)


def sockets(lab: Lab) -> Path:
    """The host's /run/docker/plugins, as this machine sees it."""
    path = host_run(lab.name, "m1") / "docker" / "plugins"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def plugin(lab: Lab, root: Path) -> Iterator[Path]:
    """The little plugin, as driver `little` of the host."""
    path = sockets(lab) / "little.sock"
    process = subprocess.Popen([sys.executable, "-m", "tests.volume_plugin", str(path), str(root)], cwd=ROOT)
    try:
        until(lambda: _listens(path), timeout_s=10, what="the plugin to listen", interval_s=0.02)
        yield root
    finally:
        process.kill()
        process.wait()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(str(path))
        except OSError:
            return False
        return True


@pytest.mark.promise(
    *promises("volumes.list", LISTED),
    *promises("volumes.create", VOLUME),
    *promises("volumes.inspect", VOLUME),
    "volumes.create.b1",
    "volumes.create.b4",
    "volumes.create.b5",
    "volumes.create.status.201",
    "volumes.create.status.500",
    "volumes.create.body.Name",
    "volumes.create.body.Driver",
    "volumes.create.body.DriverOpts",
    "volumes.create.body.Labels",
    "volumes.inspect.b2",
    "volumes.inspect.b3",
    "volumes.inspect.b6",
    "volumes.inspect.b7",
    "volumes.remove.b1",
    "volumes.remove.status.500",
)
def test_a_volume_of_a_plugin(single: Lab, docker: Docker, tmp_path: Path) -> None:
    body = {"Name": "far", "Driver": "little", "DriverOpts": {"speed": "high"}, "Labels": {"tier": "gold"}}
    with plugin(single, tmp_path) as root:
        made = docker.http("POST", "/v1.24/volumes/create", body)
        assert made.status == 201
        assert_fields(made.value, VOLUME)
        assert made.value["Name"] == "far"
        assert made.value["Driver"] == "little"
        assert made.value["Labels"] == {"tier": "gold"}
        assert made.value["Scope"] == "global"
        assert made.value["Mountpoint"] == str(root / "volumes/far/data")
        assert made.value["Status"] == {"users": 0, "options": {"speed": "high"}}
        assert json.loads((root / "volumes/far/options").read_text()) == {"speed": "high"}

        docker.ok("run", "-d", "--name", "user", "-v", "far:/data", "busybox", "sh", "-c", "echo x >/data/f; sleep 99")
        until(lambda: (root / "volumes/far/data/f").exists(), timeout_s=10, what="the file in the plugin's directory")
        answer = docker.http("GET", "/v1.24/volumes/far")
        assert_fields(answer.value, VOLUME)
        assert answer.value["Status"]["users"] == 1
        docker.ok("rm", "-f", "user")
        assert docker.http("GET", "/v1.24/volumes/far").value["Status"]["users"] == 0
        assert "little" in docker.http("GET", "/v1.24/info").value["Plugins"]["Volume"]
        refused = docker.http(
            "POST", "/v1.24/volumes/create", {"Name": "bad", "Driver": "little", "DriverOpts": {"refuse": "1"}}
        )
        assert (refused.status, refused.message) == (
            500,
            "create bad: VolumeDriver.Create: this one I do not make",
        )

    gone = docker.http("DELETE", "/v1.24/volumes/far")
    assert gone.status == 500
    assert "remove far: error looking up volume plugin little: unix /run/docker/plugins/little.sock" in gone.message
    listed = docker.http("GET", "/v1.24/volumes")
    assert_fields(listed.value, LISTED)
    assert "little" in listed.value["Warnings"][0]
    with plugin(single, tmp_path) as root:
        assert docker.http("DELETE", "/v1.24/volumes/far").status == 204
        assert (root / "removed-far").is_dir()
    (sockets(single) / "little.sock").unlink()


@pytest.mark.promise(
    "volumes.create.b2",
    "volumes.create.b3",
    "volumes.list.b1",
    "volumes.list.b6",
    "volumes.inspect.b1",
    "volumes.inspect.b4",
    "volumes.inspect.b5",
    "volumes.inspect.b8",
    "volumes.inspect.status.200",
    "volumes.inspect.status.404",
    "volumes.list.status.200",
    "volumes.remove.b2",
    "volumes.remove.b3",
    "volumes.remove.status.204",
    "volumes.remove.status.404",
    "volumes.remove.status.409",
)
def test_a_local_volume(docker: Docker) -> None:
    made = docker.http("POST", "/v1.24/volumes/create", {}).value
    assert len(made["Name"]) == 64
    assert made["Driver"] == "local"
    assert made["Scope"] == "local"
    assert made["Labels"] is None
    assert "Status" not in made
    assert docker.http("GET", f"/v1.24/volumes/{made['Name']}").value == made
    assert docker.http("GET", "/v1.24/volumes").value == {"Volumes": [made], "Warnings": []}

    docker.ok("create", "--name", "user", "-v", f"{made['Name']}:/data", "busybox")
    used = docker.http("DELETE", f"/v1.24/volumes/{made['Name']}")
    assert used.status == 409
    assert "volume is in use" in used.message
    docker.ok("rm", "user")
    gone = docker.http("DELETE", f"/v1.24/volumes/{made['Name']}")
    assert (gone.status, gone.body) == (204, b"")
    for method in ("GET", "DELETE"):
        answer = docker.http(method, f"/v1.24/volumes/{made['Name']}")
        assert (answer.status, answer.message) == (404, f"get {made['Name']}: no such volume")
    unknown = docker.http("POST", "/v1.24/volumes/create", {"Name": "data", "Driver": "nosuch"})
    assert (unknown.status, 'plugin "nosuch" not found' in unknown.message) == (404, True)
    wrong = docker.http("POST", "/v1.24/volumes/create", {"Name": "data", "Labels": ["a"]})
    assert (wrong.status, "Labels" in wrong.message) == (400, True)


@pytest.mark.promise(
    "volumes.list.b2",
    "volumes.list.b3",
    "volumes.list.b4",
    "volumes.list.b5",
    "volumes.list.query.filters",
    "volumes.list.query.filters.name",
    "volumes.list.query.filters.dangling",
    "volumes.list.query.filters.driver",
)
def test_filters(docker: Docker) -> None:
    for name in ("alpha", "beta"):
        docker.ok("volume", "create", name)
    docker.ok("create", "--name", "user", "-v", "beta:/data", "busybox")

    def names(filters: dict[str, list[str]]) -> list[str]:
        answer = docker.http("GET", "/v1.24/volumes?filters=" + json.dumps(filters, separators=(",", ":")))
        assert answer.status == 200, answer.body
        return [each["Name"] for each in answer.value["Volumes"]]

    assert names({}) == ["alpha", "beta"]
    assert names({"name": ["lph"]}) == ["alpha"]
    assert names({"dangling": ["true"]}) == names({"dangling": ["1"]}) == ["alpha"]
    assert names({"dangling": ["false"]}) == names({"dangling": ["0"]}) == ["beta"]
    assert names({"driver": ["oca"]}) == ["alpha", "beta"]
    assert names({"driver": ["x"]}) == []
    for bad in ('{"colour":["red"]}', '{"dangling":["maybe"]}', "{", "[]"):
        assert docker.http("GET", f"/v1.24/volumes?filters={bad}").status == 400, bad
