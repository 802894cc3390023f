"""Plays a scenario on one engine: each step is a bash command with the docker CLI pointed at the engine.

Steps find `$N` (the scenario's tag: every object they make is named `$N` or `$N` and more, so that it can be removed
afterwards), `$S` (the same with the step's number, for containers of one step), `$DIR` (an empty directory that the
engine sees too) and the functions of prelude.sh.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.paths import base_environment, program
from tests.differential.compare import Outcome
from tests.differential.scenario import Scenario
from tests.e2e.client import Docker

PRELUDE = Path(__file__).parent / "prelude.sh"
API_VERSION = "1.24"
STEP_TIMEOUT_S = 20.0
PINNED = f"busybox@sha256:{'0' * 64}"
"""An image for services that shall have no tasks: where no digest is named, dockerd asks a registry for one."""
PARALLEL = 3


@dataclass(frozen=True)
class Engine:
    """An engine under test: its socket, and a directory of its own that is the same path inside its host."""

    socket: Path
    scratch: Path

    def environment(self, scenario: Scenario, directory: Path) -> dict[str, str]:
        """What every step of the scenario sees."""
        base = base_environment()
        return base | {
            "PATH": f"{program('docker').parent}:{base['PATH']}",
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_API_VERSION": API_VERSION,
            "DOCKER_CONFIG": str(self.scratch / "config"),
            "DOCKER_CLI_HINTS": "false",
            "BASH_ENV": str(PRELUDE),
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
            "N": scenario.tag,
            "PINNED": PINNED,
            "DIR": str(directory),
            "SOCKET": str(self.socket),
        }


def play(scenario: Scenario, engine: Engine) -> list[Outcome]:
    """Run all steps, then remove what they made. A step that does not end is killed and has code -1."""
    directory = engine.scratch / scenario.tag
    directory.mkdir(parents=True)
    places = {str(directory): "<dir>", str(engine.socket): "<socket>"}
    environment = engine.environment(scenario, directory)
    try:
        return [
            _step(step.command, directory, environment | {"S": f"{scenario.tag}s{number}"}, places)
            for number, step in enumerate(scenario.steps, 1)
        ]
    finally:
        sweep(Docker(engine.socket), scenario.tag)
        shutil.rmtree(directory, ignore_errors=True)


def play_all(scenarios: list[Scenario], engine: Engine) -> dict[str, Future[list[Outcome]]]:
    """Start to play the scenarios: first those that need nothing, several at a time; then those that need a swarm, also
    several at a time (the engine is one from then on); at last those that must be alone, one by one."""
    phases = (
        ([each for each in scenarios if not each.alone and not each.swarm], PARALLEL),
        ([each for each in scenarios if each.swarm and not each.alone], PARALLEL),
        ([each for each in scenarios if each.alone], 1),
    )
    started: dict[str, Future[list[Outcome]]] = {}
    for number, (phase, width) in enumerate(phases):
        before, pool = list(started.values()), ThreadPoolExecutor(width)
        ready = pool.submit(_begin, before, engine if number == 1 and phase else None)
        started |= {each.id: pool.submit(_after, ready, each, engine) for each in phase}
        pool.shutdown(wait=False)
    return started


def _begin(before: list[Future[list[Outcome]]], swarm: Engine | None) -> None:
    """Wait for the end of an earlier phase, and make the engine a swarm if the next one needs it."""
    for each in before:
        with contextlib.suppress(CancelledError):
            each.exception()
    if swarm is not None:
        Docker(swarm.socket).run("swarm", "init", "--advertise-addr", "127.0.0.1")


def _after(ready: Future[None], scenario: Scenario, engine: Engine) -> list[Outcome]:
    ready.result()
    return play(scenario, engine)


def sweep(docker: Docker, tag: str) -> None:
    """Remove the services, containers, networks, volumes and images named after the tag."""
    name = json.dumps({"name": [tag]})
    for row in _listed(docker, f"/services?filters={_quoted(name)}"):
        if row["Spec"]["Name"].startswith(tag):
            docker.http("DELETE", f"/v1.24/services/{row['ID']}")
    for row in _listed(docker, f"/containers/json?all=1&filters={_quoted(name)}"):
        if any(each.lstrip("/").startswith(tag) for each in row["Names"]):
            if row["State"] == "paused":
                docker.http("POST", f"/v1.24/containers/{row['Id']}/unpause")
            docker.http("DELETE", f"/v1.24/containers/{row['Id']}?force=1&v=1")
    for row in _listed(docker, f"/networks?filters={_quoted(name)}"):
        if row["Name"].startswith(tag):
            docker.http("DELETE", f"/v1.24/networks/{row['Id']}")
    for row in _listed(docker, f"/volumes?filters={_quoted(name)}"):
        if row["Name"].startswith(tag):
            docker.http("DELETE", f"/v1.24/volumes/{row['Name']}?force=1")
    for row in _listed(docker, f"/images/json?filter={tag}*"):
        for name in row["RepoTags"] or ():
            docker.http("DELETE", f"/v1.24/images/{name}?force=1")


def _listed(docker: Docker, path: str) -> list[dict[str, Any]]:
    try:
        answer = docker.http("GET", f"/v1.24{path}")
    except (OSError, http.client.HTTPException):
        return []
    found = answer.value if answer.status == 200 else []
    return list(found.get("Volumes") or []) if isinstance(found, dict) else list(found or [])


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text)


def _step(command: str, directory: Path, environment: dict[str, str], places: dict[str, str]) -> Outcome:
    # Into files: a pipe would keep us waiting for whatever a step left running.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with subprocess.Popen(
            ["bash", "-c", command],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        ) as process:
            try:
                code = process.wait(STEP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                _kill_session(process.pid)
                code = -1
                err.write(f"(did not end within {STEP_TIMEOUT_S:.0f} s)".encode())
        for stream in (out, err):
            stream.seek(0)
        return Outcome(code, _placed(out.read(), places), _placed(err.read(), places))


def _kill_session(leader: int) -> None:
    """Kill everything a step started, also what changed its process group (as `timeout` does)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ProcessLookupError):
            session = int(stat.read_text().rpartition(")")[2].split()[3])
            if session == leader:
                os.kill(int(stat.parent.name), signal.SIGKILL)


def _placed(data: bytes, places: dict[str, str]) -> str:
    text = data.decode(errors="backslashreplace")
    for path, word in places.items():
        text = text.replace(path, word)
    return text
