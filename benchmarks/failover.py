"""How long a swarm of three managers takes no writes after its leader was killed, on shoald and on dockerd 20.10.

From the SIGKILL of the leader's engine to the first acknowledged write through another manager. A write is an update of
the swarm's spec on the version just read, sent over and over to both managers that are left; each gives up after two
seconds, so that a request which waits for the dead leader does not hide that the swarm is well again.

Aim at default settings: a median under 1.5 s, the worst of twenty under 3 s.
"""

import http.client
import json
import os
import threading
import time
from pathlib import Path

from benchmarks.results import keep, summary
from lab import swarm
from lab.lab import Lab, running
from lab.paths import LabError
from lab.state import Engine
from lab.unixhttp import ask
from lab.wait import until

MANAGERS = ("m1", "m2", "m3")
ANSWER_S = 2.0
TRY_S = 0.02


def run(*, runs: int, engines: list[Engine]) -> None:
    """Measure, print, keep."""
    figures: dict[str, object] = {}
    for engine in engines:
        with running(f"fail{os.getpid()}-{engine}", managers=3, engine=engine, registry=False) as lab:
            swarm.form(lab)
            found = [once(lab) for _ in range(runs)]
        figures[engine] = summary(found) | {"seconds": [round(each, 3) for each in found]}
        print(f"{engine:<8} leader killed to first write: {figures[engine]}")
    print(f"kept in {keep('failover', figures)}")


def once(lab: Lab) -> float:
    """Kill the leader, take the time, and put the swarm right again. Seconds."""
    until(lambda: _settled(lab), timeout_s=120, what="three managers that can be reached", interval_s=0.5)
    time.sleep(2)
    leader = next(row["Hostname"] for row in swarm.nodes(lab, "m1") if row["ManagerStatus"] == "Leader")
    rest = [name for name in MANAGERS if name != leader]
    written, stop = threading.Event(), threading.Event()
    began = time.monotonic()  # before: `kill` returns only when it has seen the process gone
    lab.kill(leader)
    threads = [threading.Thread(target=_write, args=(lab.socket(name), written, stop), daemon=True) for name in rest]
    for thread in threads:
        thread.start()
    if not written.wait(120):
        raise LabError("no write was acknowledged within two minutes")
    seconds = time.monotonic() - began
    stop.set()
    for thread in threads:
        thread.join()
    lab.start(leader)
    return seconds


def _settled(lab: Lab) -> bool:
    try:
        rows = swarm.nodes(lab, "m1")
    except LabError:
        return False
    return sorted(row["ManagerStatus"] for row in rows) == ["Leader", "Reachable", "Reachable"] and all(
        row["Status"] == "Ready" for row in rows
    )


def _write(path: Path, written: threading.Event, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            status, found = _ask(path, "GET", "/v1.24/swarm", None)
            if status == 200:
                status, _ = _ask(
                    path, "POST", f"/v1.24/swarm/update?version={found['Version']['Index']}", found["Spec"]
                )
                if status == 200:
                    written.set()
                    return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(TRY_S)


def _ask(path: Path, method: str, target: str, body: object) -> tuple[int, dict[str, dict[str, object]]]:
    data = json.dumps(body) if body else None
    answer = ask(path, method, target, data, {"Content-Type": "application/json"}, timeout_s=ANSWER_S)
    return answer.status, answer.value or {}
