"""`lab down` leaves nothing: the machine before and after a lab with containers, a swarm and faults is the same."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from lab import cgroups, swarm
from lab.lab import Lab
from lab.paths import LabError, base_environment, disk_dir, program, run_dir, tool_environment
from lab.wait import until
from tests.e2e.client import Docker
from tests.e2e.conftest import RUN

Snapshot = dict[str, set[str]]


def snapshot() -> Snapshot:
    """What a lab could leave on a machine. Processes are told by their namespaces: the machine's own come and go."""
    environment = base_environment() | tool_environment()
    nft = subprocess.run(
        [program("nft"), "list", "tables"], capture_output=True, text=True, env=environment, check=True
    )
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    own = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "mnt", "pid", "cgroup")}
    foreign = set()
    for process in Path("/proc").glob("[0-9]*"):
        for kind, ours in own.items():
            try:
                theirs = os.readlink(process / "ns" / kind)
            except OSError:  # it ended, or is a zombie
                continue
            if theirs != ours:
                foreign.add(f"{kind} of {process.name}")
    return {
        "mounts": set(Path("/proc/self/mounts").read_text().splitlines()),
        "links": {line.split(": ")[1] for line in links.splitlines()},
        "nft tables": set(nft.stdout.splitlines()),
        "named netns": set(os.listdir("/run/netns")) if Path("/run/netns").is_dir() else set(),
        "cgroups": {path for h in cgroups.hierarchies() for path, _, _ in os.walk(h.mount)},
        "processes in other namespaces": foreign,
    }


def left_over(before: Snapshot) -> Snapshot:
    now = snapshot()
    return {kind: now[kind] - before[kind] for kind in now if now[kind] - before[kind]}


def assert_as_before(before: Snapshot) -> None:
    """Within some seconds: the kernel takes namespaces apart in the background."""
    try:
        until(lambda: not left_over(before), timeout_s=15, what="the machine to be as before")
    except LabError as error:
        raise AssertionError(f"{error}; left: {left_over(before)}") from None


def test_down_leaves_nothing() -> None:
    before = snapshot()
    lab = Lab(f"{RUN}-gone")
    try:
        lab.up(managers=1, workers=1)
        swarm.form(lab)
        docker = Docker(lab.socket("m1"))
        docker.ok("service", "create", "--name", "s", "--replicas", "2", "busybox", "sleep", "1d")
        docker.ok("run", "-d", "-p", "8080:80", "-v", "data:/v", "busybox", "sleep", "1d")
        Docker(lab.socket("w1")).ok("run", "-d", "busybox", "sleep", "1d")
        lab.partition(["m1"], ["w1"])
        lab.kill("w1")  # its container runs on
        assert left_over(before), "the snapshot sees nothing of a running lab"
    finally:
        lab.down()
    assert_as_before(before)
    assert not run_dir(lab.name).exists()
    assert not disk_dir(lab.name).exists()


def test_down_works_without_the_state_file() -> None:
    """As after a crash of `lab up` at a bad moment."""
    before = snapshot()
    lab = Lab(f"{RUN}-crash")
    try:
        lab.up(managers=1, workers=0)
        Docker(lab.socket("m1")).ok("run", "-d", "busybox", "sleep", "1d")
        (run_dir(lab.name) / "state.json").unlink()
    finally:
        lab.down()
    assert_as_before(before)
