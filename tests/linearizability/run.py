"""A run in a lab of three managers: clients, faults, and the verdict on what they recorded."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from lab import swarm
from lab.lab import Lab
from lab.paths import LabError
from lab.state import alive
from tests.e2e.client import Answer, Docker
from tests.linearizability.checker import FOREVER, Operation, linearizable, version_faults

LABEL = "register"
OBJECTS = ("/swarm", "/services/one", "/services/two", "/nodes/m1")
PAUSE_S, QUIET_S = 3.0, 2.0
FAULTS = ("kill", "pause", "cut", "mute")


@dataclass
class Report:
    """What a run came to."""

    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.outcomes.items()))
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        return f"{self.seconds:.0f} s; operations: {counts}; faults: {faults}; violations: {len(self.violations)}"


def prepare(docker: Docker) -> None:
    """The objects whose labels are the registers; no node may run the services' tasks."""
    for name in ("one", "two"):
        docker.ok("service", "create", "--name", name, "--constraint", "node.labels.no==where", "busybox", "true")


class Client(threading.Thread):
    """One client: reads, or reads and then writes on what it read, through a manager of its choice each time."""

    def __init__(self, number: int, managers: list[Docker], stop: threading.Event, seed: int) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._number = number
        self._managers = managers
        self._stop_now = stop
        self._rng = random.Random(f"{seed}/{number}")
        self.history: dict[str, list[Operation]] = {path: [] for path in OBJECTS}
        self.outcomes: Counter[str] = Counter()
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            for count in range(10**9):
                if self._stop_now.is_set():
                    return
                path = self._rng.choice(OBJECTS)
                found = self._read(path)
                if found is not None and self._rng.random() < 0.6:
                    self._write(path, found, f"{self._number}.{count}")
                time.sleep(self._rng.random() * 0.1)
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            self.failure = error

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer | None:
        """None when no answer came: what became of it is not known."""
        try:
            return self._rng.choice(self._managers).http(method, f"/v1.24{path}", body)
        except (OSError, HTTPException):
            return None

    def _read(self, path: str) -> dict[str, Any] | None:
        began = time.monotonic()
        answer = self._ask("GET", path)
        ended = time.monotonic()
        if answer is None or answer.status != 200:
            self.outcomes["read: no answer"] += 1
            return None
        self.outcomes["read"] += 1
        found: dict[str, Any] = answer.value
        value = _labels(found).get(LABEL, "")
        self.history[path].append(Operation(began, ended, None, value, found["Version"]["Index"]))
        return found

    def _write(self, path: str, found: dict[str, Any], value: str) -> None:
        expected = _labels(found).get(LABEL, "")
        spec = found["Spec"] | {"Labels": _labels(found) | {LABEL: value}}
        target = path if path == "/swarm" else f"/{path.split('/')[1]}/{found['ID']}"
        began = time.monotonic()
        answer = self._ask("POST", f"{target}/update?version={found['Version']['Index']}", spec)
        ended = time.monotonic()
        if answer is not None and answer.status == 200:
            self.outcomes["write"] += 1
            self.history[path].append(Operation(began, ended, expected, value))
        elif answer is not None and "update out of sequence" in answer.message:
            self.outcomes["write: out of sequence"] += 1
        elif answer is not None and answer.status == 400:
            raise AssertionError(f"{path}: {answer.message}")
        else:
            self.outcomes["write: outcome unknown"] += 1
            self.history[path].append(Operation(began, FOREVER, expected, value))


def _labels(found: dict[str, Any]) -> dict[str, str]:
    return dict(found["Spec"].get("Labels") or {})


def run(
    lab: Lab, managers: list[str], *, seconds: float, clients: int, seed: int, say: Callable[[str], None] = print
) -> Report:
    """Clients and faults for so long, then a last read through every manager, then the verdict."""
    report, stop, began = Report(), threading.Event(), time.monotonic()
    sockets = [Docker(lab.socket(name)) for name in managers]
    prepare(sockets[0])
    threads = [Client(number, sockets, stop, seed) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        _faults(lab, managers, report, began + seconds, random.Random(seed), say)
    finally:
        stop.set()
        _repair(lab, managers)
        for thread in threads:
            thread.join(timeout=60)
    report.seconds = time.monotonic() - began
    last = Client(clients, sockets, stop, seed)
    deadline = time.monotonic() + 30
    for path in OBJECTS:
        while last._read(path) is None and time.monotonic() < deadline:
            time.sleep(0.2)
    for thread in [*threads, last]:
        if thread.is_alive() or thread.failure is not None:
            report.violations.append(f"{thread.name} did not end well: {thread.failure!r}")
        report.outcomes += thread.outcomes
    for path in OBJECTS:
        history = [operation for thread in [*threads, last] for operation in thread.history[path]]
        if not linearizable(history, ""):
            report.violations.append(f"{path}: the history of {len(history)} operations is not linearizable")
            say(json.dumps([[o.began, o.ended, o.expected, o.value, o.version] for o in history]))
        report.violations += [f"{path}: {fault}" for fault in version_faults(history)]
    return report


def _faults(
    lab: Lab, managers: list[str], report: Report, until: float, rng: random.Random, say: Callable[[str], None]
) -> None:
    order: list[str] = []
    while time.monotonic() < until:
        order = order or rng.sample(FAULTS, len(FAULTS))
        fault, victim = order.pop(), _leader(lab, managers)
        if victim is None:
            time.sleep(0.3)
            order.append(fault)
            continue
        others = [name for name in managers if name != victim]
        say(f"{fault} {victim}")
        report.faults[fault] += 1
        if fault == "kill":
            lab.kill(victim)
            time.sleep(PAUSE_S)
        elif fault == "pause":
            lab.kill(victim, signal.SIGSTOP)
            time.sleep(PAUSE_S)
            lab.kill(victim, signal.SIGCONT)
        else:
            lab.partition([victim], others, one_way=fault == "mute")
            time.sleep(PAUSE_S)
            lab.heal()
        _repair(lab, managers)
        time.sleep(QUIET_S)


def _repair(lab: Lab, managers: list[str]) -> None:
    lab.heal()
    for name in managers:
        if not alive(lab.host(name).daemon):
            lab.start(name)


def _leader(lab: Lab, managers: list[str]) -> str | None:
    for name in managers:
        try:
            rows = swarm.nodes(lab, name)
        except LabError:
            continue
        if found := [row["Hostname"] for row in rows if row["ManagerStatus"] == "Leader"]:
            return found[0]
    return None
