"""Plugins between engines: what shoald pushes a real dockerd installs and runs, and the other way round."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from lab.hosts import host_run
from lab.lab import Lab, running
from lab.network import REGISTRY
from lab.paths import VENV_BIN
from lab.wait import until
from tests.e2e.client import Docker
from tests.e2e.conftest import RUN
from tests.e2e.plugins import TAR
from tests.plugin_archive import archive, config

pytestmark = pytest.mark.skipif(not os.environ.get("SHOAL_LONG"), reason="a lab of its own: SHOAL_LONG=1")

BINDS = [mount for mount in config()["Mounts"] if mount["Source"]]
"""dockerd refuses a mount without a source, also of a tmpfs."""


@pytest.fixture
def dockerd() -> Iterator[Lab]:
    with running(f"{RUN}-ex", engine="dockerd") as lab:
        yield lab


@pytest.fixture
def shoald(dockerd: Lab) -> Iterator[Docker]:
    """In the same host, with directories and a bridge of its own."""
    places = ["--data-root", "/var/lib/sh", "--exec-root", "/run/sh", "-H", "unix:///run/sh.sock", "--bridge", "sh0"]
    program = [str(VENV_BIN / "shoald"), *places, "--insecure-registry", f"{REGISTRY}:5000"]
    with subprocess.Popen(dockerd.command("m1", program), stderr=subprocess.DEVNULL) as process:
        docker = Docker(host_run(dockerd.name, "m1") / "sh.sock")
        try:
            until(lambda: docker.run("version").code == 0, timeout_s=30, what="shoald to answer")
            yield docker
        finally:
            process.terminate()


def make(docker: Docker, name: str) -> None:
    assert docker.http("POST", f"/v1.24/plugins/create?name={name}", archive(Mounts=BINDS), **TAR).status == 204
    pushed = docker.http("POST", f"/v1.24/plugins/{name}/push")
    assert (pushed.status, b"errorDetail" in pushed.body) == (200, False), pushed.body


def use(docker: Docker, name: str) -> None:
    enabled = docker.http("POST", f"/v1.24/plugins/{name}/enable?timeout=30")
    assert enabled.status == 200, enabled.body
    docker.ok("volume", "create", "-d", name, "-o", "tmpfs=1", "vv")
    assert "tmpfs on /v type tmpfs" in docker.ok("run", "--rm", "-v", "vv:/v", "busybox", "mount")
    docker.ok("volume", "rm", "vv")
    assert docker.http("POST", f"/v1.24/plugins/{name}/disable").status == 200
    assert docker.http("DELETE", f"/v1.24/plugins/{name}").status == 200


def test_both_ways(dockerd: Lab, shoald: Docker) -> None:
    theirs = Docker(dockerd.socket("m1"))
    name = f"{REGISTRY}:5000/acme/ours"
    make(shoald, name)
    # dockerd 20.10 wants its own, newer shape of the request, with the privileges granted.
    granted = theirs.http("GET", f"/v1.40/plugins/privileges?remote={name}")
    kind = {"Content_Type": "application/json"}
    pulled = theirs.http("POST", f"/v1.40/plugins/pull?remote={name}&name={name}", granted.body, **kind)
    assert (pulled.status, b"errorDetail" in pulled.body) == (200, False), pulled.body
    theirs.ok("pull", "-q", "busybox")
    use(theirs, name)
    use(shoald, name)

    name = f"{REGISTRY}:5000/acme/theirs"
    make(theirs, name)
    pulled = shoald.http("POST", f"/v1.24/plugins/pull?name={name}")
    assert pulled.status == 200, pulled.body
    use(shoald, name)
