"""What the tests of services share: a swarm of one node with its HTTP API, and a registry that asks for a password."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from lab.lab import Lab
from lab.paths import ROOT, LabError
from lab.unixhttp import Answer
from lab.wait import until
from tests.e2e.client import Docker

Json = dict[str, Any]
NS = 1_000_000_000
SLEEP = ["sleep", "1d"]


def spec(name: str, *args: str, **more: Any) -> Json:
    """A ServiceSpec: one busybox task that obeys no signal for long; `container` and `task` add to their parts."""
    container = {"Image": "busybox", "Args": list(args or SLEEP), "StopGracePeriod": NS // 2}
    template = {"ContainerSpec": container | more.pop("container", {})} | more.pop("task", {})
    return {"Name": name, "TaskTemplate": template} | more


class Swarm:
    """The API of a manager, and what its engine shows of the tasks it runs."""

    def __init__(self, lab: Lab, host: str = "m1") -> None:
        self.lab, self.host = lab, host
        self.docker = Docker(lab.socket(host))

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        return self.docker.http(method, f"/v1.24{path}", body, **headers)

    def get(self, path: str, **filters: list[str]) -> Any:
        answer = self.call("GET", path + (f"?filters={quote(json.dumps(filters))}" if filters else ""))
        assert answer.status == 200, answer.body
        return answer.value

    def create(self, body: Json, **headers: str) -> str:
        answer = self.call("POST", "/services/create", body, **headers)
        assert answer.status == 201, answer.body
        return str(answer.value["ID"])

    def service(self, name: str) -> Json:
        return dict(self.get(f"/services/{name}"))

    def update(self, name: str, body: Json, **headers: str) -> None:
        version = self.service(name)["Version"]["Index"]
        answer = self.call("POST", f"/services/{name}/update?version={version}", body, **headers)
        assert (answer.status, answer.body) == (200, b"")

    def remove(self, name: str) -> None:
        answer = self.call("DELETE", f"/services/{name}")
        assert (answer.status, answer.body) == (200, b"")

    def tasks(self, service: str, *states: str) -> list[Json]:
        """The service's tasks, oldest first; only those in the states named, if any are."""
        found = sorted(self.get("/tasks", service=[service]), key=lambda task: str(task["CreatedAt"]))
        return [task for task in found if not states or task["Status"]["State"] in states]

    def running(self, service: str, count: int = 1, timeout_s: float = 30) -> list[Json]:
        """Wait until exactly so many tasks are wanted and run."""

        def look() -> tuple[list[Json]] | None:
            tasks = self.tasks(service)
            wanted = [task for task in tasks if task["DesiredState"] in ("ready", "running")]
            run = [task for task in wanted if task["Status"]["State"] == "running"]
            return (run,) if len(run) == len(wanted) == count else None

        found: list[Json] = self.until(look, service, f"{count} running tasks of {service}", timeout_s)[0]
        return found

    def until(self, look: Callable[[], Any], service: str, what: str, timeout_s: float = 30) -> Any:
        """Wait for something that is not empty; show the service's tasks if it was in vain."""
        try:
            return until(lambda: look() or None, timeout_s=timeout_s, what=what)
        except LabError as error:
            states = [(task["DesiredState"], task["Status"]) for task in self.tasks(service)]
            raise AssertionError(f"{error}; tasks of {service}: {json.dumps(states, indent=1)}") from None

    def container(self, task: Json) -> Json:
        """The engine's view of a task's container."""
        return self.docker.inspect(task["Status"]["ContainerStatus"]["ContainerID"])

    def inside(self, task: Json, *argv: str) -> str:
        return self.docker.ok("exec", task["Status"]["ContainerStatus"]["ContainerID"], *argv)

    def clear(self) -> None:
        """Remove all services and wait until their containers are gone."""
        for service in self.get("/services"):
            self.remove(service["ID"])
        label = ("--filter", "label=com.docker.swarm.task.id")
        until(lambda: not self.docker.ok("ps", "-aq", *label), timeout_s=30, what="the tasks' containers to go")


def login(password: str) -> str:
    """An X-Registry-Auth header."""
    return base64.urlsafe_b64encode(json.dumps({"username": "user", "password": password}).encode()).decode()


@contextmanager
def private_registry(lab: Lab, host: str, password: str) -> Iterator[str]:
    """A registry inside a lab host that wants `user` and the password; its `host:port`. It holds `secret/busybox`
    under the tags `1` to `9`, each another image."""
    program = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.e2e.private_registry", password]
    argv = lab.command(host, program)
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    with server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def seconds(stamp: str) -> float:
    """Of an API time."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")
