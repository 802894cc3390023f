"""`script/lab` as docs/lab.md tells it: every command once, and its errors."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from lab.lab import Lab
from lab.paths import ROOT
from lab.wait import until
from tests.e2e.client import Done
from tests.e2e.conftest import RUN

NAME = f"{RUN}-cli"


def script(*args: str, name: str = NAME) -> Done:
    """Run script/lab to its end."""
    done = subprocess.run(
        [ROOT / "script" / "lab", "--name", name, *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def ok(*args: str) -> str:
    done = script(*args)
    assert done.code == 0, f"script/lab {' '.join(args)}: exit {done.code}\n{done.out}{done.err}"
    return done.out


def reaches(source: str, target: str) -> bool:
    return script("exec", source, "--", "busybox", "ping", "-c", "1", "-W", "1", target).code == 0


@pytest.fixture(scope="module", autouse=True)
def _up() -> Iterator[None]:
    try:
        assert "Lab is up: m1, w1" in ok("up", "--managers", "1", "--workers", "1")
        yield
    finally:
        Lab(NAME).down()


def test_exec_gives_output_and_exit_status() -> None:
    assert ok("exec", "m1", "--", "docker", "node", "ls", "--format", "{{.Status}}").split() == ["Ready", "Ready"]
    assert ok("exec", "w1", "--", "hostname") == "w1\n"
    assert script("exec", "w1", "--", "sh", "-c", "exit 9").code == 9


def test_hosts_have_systems_of_their_own() -> None:
    assert ok("ip", "m1") == "10.99.0.11\n"
    for kind in ("net", "mnt", "pid", "uts", "ipc", "cgroup"):
        seen = {ok("exec", host, "--", "readlink", f"/proc/self/ns/{kind}") for host in ("m1", "w1")}
        assert len(seen) == 2, kind
    ok("exec", "m1", "--", "sh", "-c", "echo mine > /run/mark; echo mine > /var/lib/mark")
    assert script("exec", "w1", "--", "cat", "/run/mark").code != 0
    assert script("exec", "w1", "--", "cat", "/var/lib/mark").code != 0


def test_partition_and_heal() -> None:
    assert reaches("m1", "w1")
    ok("partition", "m1", "/", "w1")
    assert not reaches("m1", "w1")
    assert not reaches("w1", "m1")
    assert reaches("m1", "registry")
    assert "cut: m1 > w1" in ok("status")
    ok("heal")
    assert reaches("w1", "m1")


def test_kill_stop_start_and_power_loss() -> None:
    ok("kill", "-9", "w1")
    assert "stopped" in next(line for line in ok("status").splitlines() if line.startswith("w1"))
    assert "does not run" in script("kill", "w1").err
    ok("start", "w1")
    assert "already runs" in script("start", "w1").err
    ok("stop", "w1")
    assert script("exec", "w1", "--", "docker", "info").code != 0
    ok("exec", "w1", "--", "sh", "-c", "echo disk > /var/lib/mark; echo ram > /run/mark")
    ok("kill", "--host", "w1")
    assert "is off: script/lab start w1" in script("exec", "w1", "--", "true").err
    ok("start", "w1")
    assert ok("exec", "w1", "--", "cat", "/var/lib/mark") == "disk\n"
    assert script("exec", "w1", "--", "cat", "/run/mark").code != 0

    def ready() -> bool:
        return ok("exec", "m1", "--", "docker", "node", "ls", "--format", "{{.Status}}").split() == ["Ready", "Ready"]

    until(ready, timeout_s=40, what="w1 to come back")
    assert "daemon ready" in ok("logs", "w1")


def test_errors_name_what_is_wrong() -> None:
    assert "no host m7" in script("exec", "m7", "--", "true").err
    assert "already up" in script("up").err
    assert "two sides" in script("partition", "m1").err
    assert "no lab named" in script("status", name=f"{RUN}-none").err
    assert script("down", name=f"{RUN}-none").code == 0
