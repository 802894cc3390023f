"""Images between this engine, skopeo and dockerd: what one writes, the others read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lab.lab import Lab
from lab.paths import TOOLS, tool_environment
from tests.e2e.builds import build, context, run
from tests.e2e.client import Docker

SKOPEO = TOOLS / "bin/skopeo"
pytestmark = pytest.mark.skipif(not SKOPEO.exists(), reason="skopeo is not unpacked: script/bootstrap --test")


@pytest.fixture
def skopeo(tmp_path: Path) -> list[str]:
    """The program, trusting whatever it is given."""
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    return [str(SKOPEO), "--policy", str(policy)]


def call(*argv: str, cwd: Path) -> str:
    done = subprocess.run(argv, cwd=cwd, env=tool_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_skopeo_reads_and_writes(docker: Docker, skopeo: list[str], tmp_path: Path) -> None:
    text = "FROM busybox\nRUN echo 1 >/one && rm /bin/ls\nCOPY --chown=5:6 file /file\nENV A=1\nCMD cat /one /file\n"
    built = build(docker, context(text, {"file": "two\n"}), {"t": "travels:v1"})
    before = docker.inspect(built.image)
    docker.ok("save", "travels:v1", "-o", str(tmp_path / "ours.tar"))
    call(*skopeo, "copy", "-q", "docker-archive:ours.tar:travels:v1", "oci:layout:travels", cwd=tmp_path)
    seen = json.loads(call(*skopeo, "inspect", "--config", "oci:layout:travels", cwd=tmp_path))
    assert seen["rootfs"]["diff_ids"] == before["RootFS"]["Layers"]
    assert seen["config"]["Cmd"] == before["Config"]["Cmd"]
    docker.ok("rmi", "travels:v1")
    for kind, name in (("oci-archive:back.tar:oci:v1", "oci:v1"), ("docker-archive:back2.tar:dock:v1", "dock:v1")):
        call(*skopeo, "copy", "-q", "oci:layout:travels", kind, cwd=tmp_path)
        assert docker.ok("load", "-i", str(tmp_path / kind.split(":")[1])) == f"Loaded image: {name}"
        assert docker.inspect(name)["RootFS"] == before["RootFS"]
        assert docker.ok("run", "--rm", name) == "1\ntwo"
        assert run(docker, name, "stat", "-c", "%u:%g", "/file") == "5:6"
        assert docker.run("run", "--rm", name, "ls").code == 127
        docker.ok("rmi", name)


def test_the_registry_of_skopeo_and_ours_is_one(single: Lab, docker: Docker, skopeo: list[str], tmp_path: Path) -> None:
    """What we push, skopeo finds whole in the registry."""
    registry = f"{single.host('registry').address}:5000"
    docker.ok("tag", "busybox", f"{registry}/pushed:v1")
    docker.ok("push", "-q", f"{registry}/pushed:v1")
    docker.ok("tag", "busybox", f"{registry}/team/other:v1")
    assert "Mounted from pushed" in docker.ok("push", f"{registry}/team/other:v1")
    docker.ok("rmi", f"{registry}/team/other:v1")
    docker.ok("rmi", f"{registry}/pushed:v1")
    done = single.run("m1", "env", *(f"{key}={value}" for key, value in tool_environment().items()), str(SKOPEO),
                      "inspect", "--tls-verify=false", f"docker://{registry}/pushed:v1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["Os"] == "linux"
