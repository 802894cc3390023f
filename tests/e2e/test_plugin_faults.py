"""Plugins that die, and the engine killed (-9) around them: records and reality stay the same, and volumes work on."""

from __future__ import annotations

import http.client
import os
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from base import faultpoint
from lab.lab import Lab
from lab.paths import ROOT
from lab.state import alive
from lab.wait import until
from tests.e2e import plugins
from tests.e2e.client import Docker
from tests.e2e.plugins import FULL, NAME, create, inspect, installed, process, publish

ROUNDS = 60 if os.environ.get("SHOAL_LONG") else 3
POINTS = ["records.plugins.before", "plugin.mounted", "plugin.running"]
if os.environ.get("SHOAL_LONG"):
    POINTS += ["records.plugins.after", "monitor.directory"]
SEED = int(os.environ.get("SHOAL_CRASH_SEED", "3"))
PULL, ENABLE, DISABLE, REMOVE = (
    ("POST", f"/v1.24/plugins/pull?name={NAME}"),
    ("POST", f"/v1.24/plugins/{NAME}/enable"),
    ("POST", f"/v1.24/plugins/{NAME}/disable"),
    ("DELETE", f"/v1.24/plugins/{NAME}"),
)
LONGEST_S = 0.5
"""What each of them takes on a slow machine, about."""
ASK = "import sys; from pathlib import Path; from lab.unixhttp import ask; ask(Path(sys.argv[1]), *sys.argv[2:])"


@pytest.fixture(autouse=True)
def _no_plugins(single: Lab, docker: Docker) -> Iterator[None]:
    yield
    plugins.clear(docker)
    plugins.check(single, docker)


def test_a_plugin_that_dies_is_started_again(single: Lab, docker: Docker) -> None:
    with installed(docker):
        docker.ok("volume", "create", "-d", NAME, "-o", "tmpfs=1", "ram")
        docker.ok("run", "-d", "--name", "user", "-v", "ram:/v", "busybox", "sh", "-c", "echo x >/v/f; sleep 99")
        until(lambda: docker.run("exec", "user", "cat", "/v/f").out == "x\n", timeout_s=10, what="the file")
        before = process(single, docker)
        assert single.run("m1", "kill", "-9", str(before)).returncode == 0
        until(lambda: process(single, docker) not in (0, before), timeout_s=20, what="another process")
        # Whoever asks meanwhile waits for it; what it had mounted is still there.
        docker.ok("volume", "create", "-d", NAME, "next")
        assert docker.ok("exec", "user", "cat", "/v/f") == "x"
        assert docker.ok("run", "--rm", "-v", "ram:/v", "busybox", "cat", "/v/f") == "x"
        docker.ok("rm", "-f", "user")
        docker.ok("volume", "rm", "ram", "next")
        assert inspect(docker)["Active"] is True


def test_a_monitor_that_dies_takes_its_plugin_with_it_once(single: Lab, docker: Docker) -> None:
    with installed(docker):
        before = process(single, docker)
        monitor = int(single.run("m1", "cat", f"/run/shoal/p/m/{inspect(docker)['Id'][:12]}/monitor.pid").stdout)
        assert single.run("m1", "kill", "-9", str(monitor)).returncode == 0
        until(lambda: process(single, docker) not in (0, before), timeout_s=20, what="another process")
        docker.ok("volume", "create", "-d", NAME, "vv")
        docker.ok("volume", "rm", "vv")
        assert single.run("m1", "kill", "-0", str(before)).returncode != 0


def test_it_outlives_its_daemon(single: Lab, docker: Docker) -> None:
    with installed(docker):
        before = process(single, docker)
        docker.ok("run", "-d", "--name", "user", "--volume-driver", NAME, "-v", "vv:/v", "busybox", "sleep", "99")
        single.kill("m1")
        assert single.run("m1", "kill", "-0", str(before)).returncode == 0
        single.start("m1")
        assert (process(single, docker), inspect(docker)["Active"]) == (before, True)
        assert docker.http("GET", "/v1.24/volumes/vv").value["Status"]["users"] == 1
        docker.ok("rm", "-f", "user")
        assert docker.http("GET", "/v1.24/volumes/vv").value["Status"]["users"] == 0

        single.stop("m1")
        single.start("m1")
        assert process(single, docker) == before, "a daemon that is stopped in peace leaves it, too"

        # It dies while nobody looks: the next daemon starts it again.
        single.kill("m1")
        single.run("m1", "kill", "-9", str(before))
        single.start("m1")
        assert process(single, docker) not in (0, before)
        docker.ok("volume", "rm", "vv")
        plugins.check(single, docker)


def test_after_a_power_loss_it_is_there_before_its_containers(single: Lab, docker: Docker) -> None:
    with installed(docker):
        command = ["sh", "-c", "echo x >>/v/f; sleep 99"]
        docker.ok("run", "-d", "--name", "user", "--restart", "always", "--volume-driver", NAME, "-v", "vv:/v",
                  "busybox", *command)  # fmt: skip
        single.power_off("m1")
        single.start("m1")
        assert inspect(docker)["Active"] is True
        until(lambda: docker.state("user")["Running"], timeout_s=20, what="the container to run again")
        until(lambda: docker.run("exec", "user", "cat", "/v/f").out == "x\nx\n", timeout_s=10, what="both lines")


def interrupted(lab: Lab, docker: Docker, request: tuple[str, str], delay_s: float) -> None:
    """Begin a request, kill the engine after a while, start it again."""
    with subprocess.Popen([sys.executable, "-c", ASK, str(docker.path), *request], cwd=ROOT,
                          stderr=subprocess.DEVNULL) as client:  # fmt: skip
        try:
            client.wait(0.15 + delay_s)  # Python itself needs some time before it asks
        except subprocess.TimeoutExpired:
            pass
        lab.kill("m1")
        client.kill()
    lab.start("m1")


@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_the_engine_is_killed_at_any_moment(single: Lab, docker: Docker) -> None:
    publish(docker)
    chance = random.Random(SEED)
    for number in range(ROUNDS):
        there = docker.http("GET", "/v1.24/plugins").value
        if not there:
            request = PULL
        elif there[0]["Active"]:
            request = DISABLE
        else:
            request = (ENABLE, REMOVE)[chance.random() < 0.4]
        interrupted(single, docker, request, delay := chance.random() * LONGEST_S)
        found = plugins.differences(single, docker)
        assert not found, f"round {number} (seed {SEED}): {request} killed after {delay:.3f} s: {found}"
    # A second try of everything succeeds.
    plugins.clear(docker)
    plugins.check(single, docker)
    for method, path in (PULL, ENABLE):
        assert docker.http(method, path).status == 200
    docker.ok("volume", "create", "-d", FULL, "vv")
    docker.ok("volume", "rm", "vv")
    for method, path in (DISABLE, REMOVE):
        assert docker.http(method, path).status == 200


@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_the_engine_is_killed_while_containers_come_and_go(single: Lab, docker: Docker) -> None:
    """The plugin's own count of users is that of the containers that run; the same again after every restart."""
    chance = random.Random(SEED)
    with installed(docker):
        docker.ok("volume", "create", "-d", NAME, "-o", "tmpfs=1", "ram")
        for number in range(ROUNDS):
            name = f"u{number}"
            commands = [["run", "-d", "--name", name, "-v", "ram:/v", "busybox", "sleep", "1000"]]
            if running := docker.ok("ps", "-q").split():
                commands.append(["kill", running[0]])
            delay = chance.random() * LONGEST_S
            with docker.start(*commands[chance.randrange(len(commands))]) as client:
                try:
                    client.wait(delay)
                except subprocess.TimeoutExpired:
                    pass
                single.kill("m1")
                client.kill()
            single.start("m1")
            running = docker.ok("ps", "-q").split()
            users = docker.http("GET", "/v1.24/volumes/ram").value["Status"]["users"]
            assert users == len(running), f"round {number} (seed {SEED}), killed after {delay:.3f} s"


def test_a_crash_while_one_is_made(single: Lab, docker: Docker) -> None:
    create(docker, NAME)
    assert docker.http("DELETE", f"/v1.24/plugins/{NAME}").status == 200
    spool = plugins.data(single) / "incoming/left"
    single.kill("m1")
    spool.mkdir(parents=True)
    (spool / "config.json").write_text("{}")
    (plugins.data(single) / "installed/0123456789ab").mkdir(parents=True)
    single.start("m1")
    assert plugins.differences(single, docker) == []


@pytest.mark.parametrize("point", POINTS)
def test_enabling_ends_at_a_point(single: Lab, docker: Docker, point: str) -> None:
    publish(docker)
    assert docker.http(*PULL).status == 200
    single.kill("m1")
    single.start("m1", env={faultpoint.VARIABLE: point})
    with pytest.raises((OSError, http.client.HTTPException)):
        docker.http(*ENABLE)
    until(lambda: not alive(single.host("m1").daemon), timeout_s=10, what="the engine to end")
    single.start("m1")
    plugins.check(single, docker)
    if not inspect(docker)["Active"]:
        assert docker.http(*ENABLE).status == 200
    docker.ok("volume", "create", "-d", FULL, "vv")
    docker.ok("volume", "rm", "vv")
    assert docker.http(*DISABLE).status == 200
