"""kill -9 of the engine at random moments of everything it does: what it answered is kept, what runs is what it says,
and nothing is left behind.

SHOAL_CRASH_ROUNDS sets the number of rounds (10), SHOAL_CRASH_SEED the first seed.
"""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lab.lab import Lab, running
from lab.paths import LabError
from lab.unixhttp import Answer
from lab.wait import until
from tests.e2e.client import Docker
from tests.e2e.conftest import RUN
from tests.e2e.reality import differences

ROUNDS = int(os.environ.get("SHOAL_CRASH_ROUNDS", "10"))
SEED = int(os.environ.get("SHOAL_CRASH_SEED", "1"))
USERS = 3
UNKNOWN = "unknown"


class User:
    """Somebody with a container, a volume and a network of their own, who remembers what the engine has answered.

    A fact is `UNKNOWN` from the moment a request that changes it is sent until its answer is there: that is what a
    crash may decide either way."""

    def __init__(self, number: int, docker: Docker, chance: random.Random) -> None:
        self.name = f"user{number}"
        self.docker = docker
        self.chance = chance
        self.port = 8100 + number
        self.container = self.volume = self.network = "absent"
        self.connected = "no"

    def live(self, over: threading.Event) -> None:
        """Do one thing after the other until the engine is gone."""
        while not over.is_set():
            try:
                self.chance.choice(self._possible())()
            except (OSError, http.client.HTTPException):
                return

    def _possible(self) -> list[Callable[[], None]]:
        if self.container == "absent":
            return [self.create, self.create, self.toggle_volume, self.toggle_network]
        if self.container == "running":
            return [self.stop, self.kill, self.remove, self.toggle_connection]
        return [self.start, self.start, self.remove, self.toggle_connection]

    def create(self) -> None:
        host: dict[str, Any] = {"Binds": [f"{self.name}:/data"]}
        if self.network == "present" and self.chance.random() < 0.5:
            host["NetworkMode"] = self.name
        if self.chance.random() < 0.5:
            host["PortBindings"] = {"80/tcp": [{"HostPort": str(self.port)}]}
        body = {"Image": "busybox", "Cmd": ["sleep", "99999"], "HostConfig": host, "Volumes": {"/anonymous": {}}}
        self.container = self.volume = self.connected = UNKNOWN
        self._ask("POST", f"/containers/create?name={self.name}", body, 201)
        self.container, self.volume = "stopped", "present"
        self.connected = "yes" if "NetworkMode" in host else "no"

    def start(self) -> None:
        self.container = self.connected = UNKNOWN
        self._ask("POST", f"/containers/{self.name}/start", None, 204)
        self.container = "running"
        self.connected = self.now()["connected"]  # one that was taken off its last network has joined it again

    def stop(self) -> None:
        self.container = UNKNOWN
        self._ask("POST", f"/containers/{self.name}/stop?t=0", None, 204)
        self.container = "stopped"

    def kill(self) -> None:
        self.container = UNKNOWN
        self._ask("POST", f"/containers/{self.name}/kill", None, 204)
        self._ask("POST", f"/containers/{self.name}/wait", None, 200)
        self.container = "stopped"

    def remove(self) -> None:
        self.container = self.connected = UNKNOWN
        self._ask("DELETE", f"/containers/{self.name}?force=1&v=1", None, 204)
        self.container, self.connected = "absent", "no"

    def toggle_connection(self) -> None:
        if self.network != "present" or self.connected == UNKNOWN:
            self.toggle_network()
            return
        verb, then = ("disconnect", "no") if self.connected == "yes" else ("connect", "yes")
        self.connected = UNKNOWN
        self._ask("POST", f"/networks/{self.name}/{verb}", {"Container": self.name}, 200)
        self.connected = then

    def toggle_volume(self) -> None:
        was, self.volume = self.volume, UNKNOWN
        if was == "present":
            self._ask("DELETE", f"/volumes/{self.name}", None, 204)
        else:
            self._ask("POST", "/volumes/create", {"Name": self.name}, 201)
        self.volume = "absent" if was == "present" else "present"

    def toggle_network(self) -> None:
        was = self.network
        if was == "present" and self.container != "absent":
            return
        self.network = UNKNOWN
        if was == "present":
            self._ask("DELETE", f"/networks/{self.name}", None, 204)
        else:
            self._ask("POST", "/networks/create", {"Name": self.name, "CheckDuplicate": True}, 201)
        self.network = "absent" if was == "present" else "present"

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, status: int) -> Answer:
        answer = self.docker.http(method, f"/v1.24{path}", body)
        assert answer.status == status, f"{method} {path}: {answer.status} {answer.body!r}"
        return answer

    def now(self) -> dict[str, str]:
        """The same facts, as the engine tells them."""
        answer = self.docker.http("GET", f"/v1.24/containers/{self.name}/json")
        container, connected = "absent", "no"
        if answer.status == 200:
            container = "running" if answer.value["State"]["Running"] else "stopped"
            connected = "yes" if self.name in answer.value["NetworkSettings"]["Networks"] else "no"
        found = {"container": container, "connected": connected}
        for kind in ("volume", "network"):
            there = self.docker.http("GET", f"/v1.24/{kind}s/{self.name}").status == 200
            found[kind] = "present" if there else "absent"
        return found

    def check(self) -> None:
        """What was answered is so still; what was not becomes known."""
        for fact, value in self.now().items():
            said = getattr(self, fact)
            assert said in (UNKNOWN, value), f"{self.name}: {fact} was answered as {said}, and is {value}"
            setattr(self, fact, value)


@pytest.fixture
def crashing() -> Iterator[Lab]:
    with running(f"{RUN}-crash", registry=False) as lab:
        yield lab


def settled(lab: Lab, docker: Docker) -> None:
    """Records and reality are the same, after a moment: the kernel drops namespaces and cgroups in the background."""
    try:
        until(lambda: not differences(lab, docker), timeout_s=8, what="records and reality to agree", interval_s=0.2)
    except LabError:
        assert differences(lab, docker) == []


@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_crashes_at_any_moment(crashing: Lab) -> None:
    docker = Docker(crashing.socket("m1"))
    users = [User(number, docker, random.Random(SEED * 1000 + number)) for number in range(USERS)]
    chance = random.Random(SEED)
    for turn in range(ROUNDS):
        over = threading.Event()
        with ThreadPoolExecutor(USERS) as threads:
            lives = [threads.submit(user.live, over) for user in users]
            time.sleep(chance.uniform(0.01, 0.9))
            crashing.kill("m1")
            over.set()
            for life in lives:
                life.result()
        crashing.start("m1")
        try:
            settled(crashing, docker)
            for user in users:
                user.check()
        except AssertionError as error:
            raise AssertionError(f"round {turn} (seed {SEED}): {error}") from None
    _clean_up(docker)
    settled(crashing, docker)


def _clean_up(docker: Docker) -> None:
    """Everything can be removed by the API alone."""
    for each in docker.http("GET", "/v1.24/containers/json?all=1").value:
        assert docker.http("DELETE", f"/v1.24/containers/{each['Id']}?force=1&v=1").status == 204
    for each in docker.http("GET", "/v1.24/volumes").value["Volumes"]:
        answer = docker.http("DELETE", f"/v1.24/volumes/{each['Name']}")
        assert answer.status == 204, answer.body
    for each in docker.http("GET", '/v1.24/networks?filters={"type":["custom"]}').value:
        assert docker.http("DELETE", f"/v1.24/networks/{each['Id']}").status == 204
    answer = docker.http("DELETE", "/v1.24/images/busybox?force=0")
    assert answer.status == 200, answer.body
