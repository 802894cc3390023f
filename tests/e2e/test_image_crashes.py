"""kill -9 of the daemon in the middle of a build, a load, a pull and a removal: nothing dangles afterwards, what is
listed works, and a second try succeeds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from base import faultpoint
from lab.hosts import host_lib
from lab.lab import Lab
from lab.paths import base_environment
from lab.state import alive
from lab.wait import until
from tests.e2e.builds import build, context, run
from tests.e2e.client import Docker

BLOCK = os.urandom(1 << 20)
BUILD = context(
    "FROM busybox\nCOPY big /big\nRUN cat /big /big /big > /more; sync\nRUN rm /more; echo end > /end\nCMD x\n",
    {"big": BLOCK * 6},
)
DELAYS_S = (0.05, 0.25, 0.6)
POINTS = ["layer.placed", "records.images.before"]
if os.environ.get("SHOAL_LONG"):
    POINTS += ["image.synced", "records.images.after"]


def unnamed(data: Path) -> list[str]:
    """What lies aside: half made, or on its way out."""
    return os.listdir(data / "blobs/tmp") + [name for name in os.listdir(data / "layers") if name.startswith("tmp-")]


def check_nothing_dangles(lab: Lab, docker: Docker) -> None:
    """What lies on the disk belongs to the images that are listed; no container of a build is left."""
    assert docker.ok("ps", "-aq") == ""
    data = host_lib(lab.name, "m1") / "shoal"
    assert os.listdir(data / "builds") == []
    until(lambda: not unnamed(data), timeout_s=10, what="what was removed to be gone from the disk")
    chains: set[str] = set()
    blobs: set[str] = set()
    for row in docker.http("GET", "/v1.24/images/json?all=1").value:
        image = docker.inspect(row["Id"])
        graph = image["GraphDriver"]["Data"] or {}
        paths = [graph.get("UpperDir", ""), *graph.get("LowerDir", "").split(":")]
        chains |= {Path(path).parent.name for path in paths if path}
        blobs.add(row["Id"].removeprefix("sha256:"))
    assert set(os.listdir(data / "layers")) == chains
    stored = set(os.listdir(data / "blobs/sha256"))
    assert blobs <= stored
    assert len(stored) <= len(blobs) + len(chains)


def interrupted(lab: Lab, docker: Docker, argv: list[str], delay_s: float, stdin: bytes) -> None:
    """Begin a docker command, kill the engine after a while, start it again."""
    with subprocess.Popen(
        docker.argv(*argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=base_environment() | {"DOCKER_BUILDKIT": "0"},
    ) as process:
        assert process.stdin is not None
        try:
            process.communicate(stdin, timeout=delay_s)
        except subprocess.TimeoutExpired:
            pass
        lab.kill("m1")
        process.kill()
    lab.start("m1")


@pytest.mark.parametrize("delay_s", DELAYS_S)
def test_a_build(single: Lab, docker: Docker, delay_s: float) -> None:
    interrupted(single, docker, ["build", "--no-cache", "-t", "crashed", "-"], delay_s, BUILD)
    check_nothing_dangles(single, docker)
    built = build(docker, BUILD, {"t": "crashed"})
    assert run(docker, built.image, "cat", "/end") == "end"
    docker.ok("rmi", "crashed")
    check_nothing_dangles(single, docker)


@pytest.mark.parametrize("delay_s", DELAYS_S[:2])
def test_a_load_and_a_removal(single: Lab, docker: Docker, tmp_path: Path, delay_s: float) -> None:
    build(docker, BUILD, {"t": "loaded"})
    docker.ok("save", "loaded", "-o", str(tmp_path / "loaded.tar"))
    interrupted(single, docker, ["rmi", "loaded"], delay_s / 10, b"")
    check_nothing_dangles(single, docker)
    docker.run("rmi", "loaded")
    archive = (tmp_path / "loaded.tar").read_bytes()
    interrupted(single, docker, ["load"], delay_s, archive)
    check_nothing_dangles(single, docker)
    docker.ok("load", "-i", str(tmp_path / "loaded.tar"))
    assert run(docker, "loaded", "cat", "/end") == "end"
    docker.ok("rmi", "loaded")
    check_nothing_dangles(single, docker)


@pytest.mark.parametrize("delay_s", DELAYS_S[:2])
def test_a_pull(single: Lab, docker: Docker, delay_s: float) -> None:
    docker.run("rmi", "busybox")
    interrupted(single, docker, ["pull", "busybox"], delay_s / 4, b"")
    check_nothing_dangles(single, docker)
    docker.ok("pull", "-q", "busybox")
    assert run(docker, "busybox", "echo", "works") == "works"
    check_nothing_dangles(single, docker)


@pytest.mark.parametrize("point", POINTS)
def test_a_pull_for_a_container_that_ends_at_a_point(single: Lab, docker: Docker, point: str) -> None:
    image = f"10.99.0.250:5000/mine/{point}:v1"  # of a layer that no other image has
    assert build(docker, context(f"FROM busybox\nCOPY file /{point}\n", {"file": point}), {"t": image}).image
    docker.ok("push", "-q", image)
    docker.ok("rmi", image)
    single.kill("m1")
    single.start("m1", env={faultpoint.VARIABLE: point})
    docker.bad("run", "--rm", image, "true")
    until(lambda: not alive(single.host("m1").daemon), timeout_s=10, what="the engine to end")
    single.start("m1")
    check_nothing_dangles(single, docker)
    assert docker.ok("run", "--rm", image, "cat", f"/{point}") == point
    docker.ok("rmi", image)
    check_nothing_dangles(single, docker)
