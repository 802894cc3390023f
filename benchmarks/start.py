"""How long a container takes to start: one by `docker run`, and fifty by a service, on shoald and on dockerd 20.10.

Both engines live in lab hosts of the same kind, use the same docker CLI and the same image, and take turns, so that
whatever else the machine does meets both alike. (Most of dockerd's time for the service is its own habit of asking the
registry for the image before each task, one task after the other; the registry is the lab's, so this costs no network.)

First aim: shoald needs at most 0.4 of dockerd's time for one.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence

from benchmarks.results import keep, summary
from lab.dockerd import load
from lab.image import archive, build
from lab.lab import Lab, running
from lab.paths import base_environment, program
from lab.state import Engine
from lab.wait import until

ENGINES: tuple[Engine, ...] = ("shoald", "dockerd")
AIM = 0.4
WARM_UP = 2


def run(*, runs: int, replicas: int) -> None:
    """Measure, print, keep."""
    with contextlib.ExitStack() as stack:
        labs = {
            engine: stack.enter_context(running(f"bench{os.getpid()}-{engine}", engine=engine)) for engine in ENGINES
        }
        for lab in labs.values():
            load(lab.socket("m1"), archive(build(), "busybox:latest"))
        single = one_container(labs, runs)
        figures: dict[str, object] = {"docker_run": single}
        if replicas:
            figures["service_create"] = {engine: service(lab, replicas) for engine, lab in labs.items()}
    show(single, figures.get("service_create"), replicas)
    print(f"kept in {keep('start', figures)}")


def one_container(labs: dict[Engine, Lab], runs: int) -> dict[str, dict[str, float]]:
    """`docker run --rm busybox true`, taking turns; the first few of each are not counted."""
    times: dict[Engine, list[float]] = {engine: [] for engine in labs}
    for turn in range(runs + WARM_UP):
        for engine, lab in labs.items():
            seconds = timed(lab, ("run", "--rm", "busybox", "true"))
            if turn >= WARM_UP:
                times[engine].append(seconds)
    return {engine: summary(seconds) for engine, seconds in times.items()}


def service(lab: Lab, replicas: int) -> dict[str, float]:
    """Milliseconds from `service create` until that many tasks run, in a fresh swarm of one node."""
    lab.docker("m1", "swarm", "init", "--advertise-addr", lab.host("m1").address)
    # Newer engines let the CLI wait for the tasks; both are to return at once and be asked.
    detach = ("--detach",) if lab.state().engine == "dockerd" else ()
    began = time.perf_counter()
    lab.docker(
        "m1", "service", "create", *detach, "--name", "many", "--replicas", str(replicas), "busybox", "sleep", "1d"
    )
    created = time.perf_counter()
    all_run = f"{replicas}/{replicas}"

    def look() -> bool:
        return lab.docker("m1", "service", "ls", "--format", "{{.Replicas}}").strip() == all_run

    until(look, timeout_s=300, what=f"{all_run} on {lab.state().engine}", interval_s=0.05)
    ended = time.perf_counter()
    return {"create_ms": round((created - began) * 1000, 1), "all_running_ms": round((ended - began) * 1000, 1)}


def timed(lab: Lab, arguments: Sequence[str]) -> float:
    """Seconds that one docker command takes."""
    command = [str(program("docker")), "-H", f"unix://{lab.socket('m1')}", *arguments]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=base_environment(), timeout=60)
    return time.perf_counter() - began


def show(single: dict[str, dict[str, float]], many: object, replicas: int) -> None:
    """Print the tables."""
    print("docker run --rm busybox true")
    for engine, row in single.items():
        print(
            f"  {engine:<8} median {row['median_ms']:>8.1f} ms   min {row['min_ms']:>8.1f} ms   ({row['count']:g} runs)"
        )
    ratio = single["shoald"]["median_ms"] / single["dockerd"]["median_ms"]
    print(f"  shoald takes {ratio:.2f} of dockerd's time (aim: at most {AIM}): {'met' if ratio <= AIM else 'NOT MET'}")
    if isinstance(many, dict):
        print(f"service create --replicas {replicas}, until all run")
        for engine, row in many.items():
            print(f"  {engine:<8} {row['all_running_ms'] / 1000:>8.2f} s")
        both = many["shoald"]["all_running_ms"] / many["dockerd"]["all_running_ms"]
        print(f"  shoald takes {both:.2f} of dockerd's time")
