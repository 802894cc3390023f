"""What the tests of plugins share: a plugin in the lab's registry, and what really is there of plugins on a host."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.hosts import host_lib, host_run
from lab.lab import Lab
from lab.network import REGISTRY
from tests.e2e.client import Docker
from tests.plugin_archive import archive

NAME = f"{REGISTRY}:5000/acme/vols"
FULL = f"{NAME}:latest"
TAR = {"Content_Type": "application/x-tar"}


def create(docker: Docker, name: str, **config: Any) -> None:
    """Make the plugin of tests/volume_plugin.py on the host."""
    made = docker.http("POST", f"/v1.24/plugins/create?name={name}", archive(**config), **TAR)
    assert made.status == 204, made.body


def publish(docker: Docker, name: str = NAME, **config: Any) -> None:
    """The plugin is in the lab's registry, and not on the host."""
    create(docker, name, **config)
    pushed = docker.http("POST", f"/v1.24/plugins/{name}/push")
    assert pushed.status == 200, pushed.body
    assert b"errorDetail" not in pushed.body, pushed.body
    assert docker.http("DELETE", f"/v1.24/plugins/{name}").status == 200


def ask(docker: Docker, action: str, name: str = NAME) -> None:
    """`enable` or `disable` it."""
    answer = docker.http("POST", f"/v1.24/plugins/{name}/{action}")
    assert answer.status == 200, answer.body


def inspect(docker: Docker, name: str = NAME) -> dict[str, Any]:
    answer = docker.http("GET", f"/v1.24/plugins/{name}")
    assert answer.status == 200, answer.body
    return dict(answer.value)


def clear(docker: Docker) -> None:
    """No containers, no volumes of plugins, no plugins."""
    docker.run("rm", "-f", *docker.ok("ps", "-aq").split(), "none")
    for volume in docker.http("GET", "/v1.24/volumes").value["Volumes"]:
        docker.http("DELETE", f"/v1.24/volumes/{volume['Name']}?force=1")
    for plugin in docker.http("GET", "/v1.24/plugins").value:
        gone = docker.http("DELETE", f"/v1.24/plugins/{plugin['Name']}:{plugin['Tag']}?force=1")
        assert gone.status == 200, gone.body


def data(lab: Lab) -> Path:
    """The engine's directory of plugins, as this machine sees it. (Without what is mounted in the host.)"""
    return host_lib(lab.name, "m1") / "shoal/plugins"


def _names(path: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir(path))
    return []


def _cgroups(lab: Lab) -> set[str]:
    shown = lab.run("m1", "sh", "-c", "ls /sys/fs/cgroup/*/shoal /sys/fs/cgroup/shoal 2>/dev/null")
    return {line for line in shown.stdout.split() if len(line) == 64}


def differences(lab: Lab, docker: Docker) -> list[str]:
    """Where what is told of plugins and what there is of them differ, in words; no container runs meanwhile."""
    plugins = docker.http("GET", "/v1.24/plugins").value
    every = {plugin["Id"] for plugin in plugins}
    active = {plugin["Id"] for plugin in plugins if plugin["Active"]}
    run = host_run(lab.name, "m1") / "shoal"
    table = lab.run("m1", "cat", "/proc/self/mountinfo").stdout.splitlines()
    mounts = {line.split(" ")[4].split("/installed/")[1] for line in table if "/installed/" in line}
    found = []
    for what, said, real in (
        ("monitors", {name[:12] for name in active}, set(_names(run / "p/m"))),
        ("runtime", active, set(_names(run / "p/crun"))),
        ("sockets", {name[:12] for name in active}, set(_names(run / "plugins"))),
        ("cgroups", active, _cgroups(lab)),
        ("mounts", {f"{name}/{part}" for name in active for part in ("rootfs", "propagated-mount")}, mounts),
        ("spooled", set(), set(_names(data(lab) / "incoming")) | set(_names(data(lab) / "blobs/tmp"))),
    ):
        if said != real:
            found.append(f"{what}: said {sorted(said)}, real {sorted(real)}")
    if not active <= set(_names(data(lab) / "installed")) <= every:
        found.append(f"directories: said {sorted(every)}, real {_names(data(lab) / 'installed')}")
    if not every and (left := _names(data(lab) / "layers") + _names(data(lab) / "blobs/sha256")):
        found.append(f"no plugin is there, but of their artifacts {left}")
    if every and not _names(data(lab) / "layers"):
        found.append("plugins are there without layers")
    return found


def check(lab: Lab, docker: Docker) -> None:
    """What is told becomes true, soon."""
    deadline = time.monotonic() + 20
    while found := differences(lab, docker):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def process(lab: Lab, docker: Docker, name: str = NAME) -> int:
    """The plugin's process, as a pid of the host; 0 if there is none."""
    file = host_run(lab.name, "m1") / "shoal/p/m" / inspect(docker, name)["Id"][:12] / "pid"
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text())
    return 0


@contextlib.contextmanager
def installed(docker: Docker, name: str = NAME, **config: Any) -> Iterator[None]:
    """The plugin is there and enabled, for the length of a block."""
    create(docker, name, **config)
    try:
        ask(docker, "enable", name)
        yield
    finally:
        clear(docker)
