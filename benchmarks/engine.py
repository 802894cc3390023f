"""The single-host engine beside dockerd 20.10: exec, containers one by one and eight at a time, lists, logs, copies,
memory and restart.

Both engines live in lab hosts of the same kind, with the same image and the same client, and take turns within each
measurement, so that whatever else the machine does meets both alike. Times are medians; `ratio` is shoald over dockerd.
"""

import contextlib
import io
import json
import os
import statistics
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.results import keep
from benchmarks.start import ENGINES, timed
from lab import cgroups
from lab.dockerd import load
from lab.image import archive, build
from lab.lab import Lab, running
from lab.paths import base_environment, program
from lab.state import Engine
from lab.unixhttp import UnixConnection
from lab.wait import until

Labs = dict[Engine, Lab]
Figures = dict[Engine, float]

AIMS = {
    "run_ms": (0.2, "at most"),
    "exec_ms": (0.5, "at most"),
    "sequence_per_s": (1.0, "at least"),
    "eight_per_s": (6.0, "at least"),
    "log_write_s": (1.0, "at most"),
    "log_read_s": (0.4, "at most"),
    "copy_in_s": (1.0, "at most"),
    "copy_out_s": (1.0, "at most"),
    "list_100_per_s": (4.0, "at least"),
    "info_per_s": (4.0, "at least"),
    "memory_50_mb": (0.55, "at most"),
}
"""Wanted ratios of shoald to dockerd; what is not here is reported as it is."""
FIRST_PING_S = 1.0
MANY = 100
RUNNING = 50
MIB = 1 << 20


class Client:
    """One kept connection to an engine."""

    def __init__(self, lab: Lab) -> None:
        self._connection = UnixConnection(lab.socket("m1"), 120)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def __call__(self, method: str, path: str, body: object = None) -> bytes:
        """The body of a successful answer. Raises RuntimeError for any other."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"} if data else {}
        self._connection.request(method, f"/v1.24{path}", data, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {content!r}")
        return content

    def create(self, name: str, *command: str) -> None:
        body = {"Image": "busybox", "Cmd": list(command), "HostConfig": {"NetworkMode": "bridge"}}
        self("POST", f"/containers/create?name={name}", body)

    def cycle(self, name: str) -> None:
        """Create, start, wait, delete."""
        self.create(name, "true")
        self("POST", f"/containers/{name}/start")
        self("POST", f"/containers/{name}/wait")
        self("DELETE", f"/containers/{name}")


def run(*, quick: bool) -> None:
    """Measure, print, keep."""
    scale = 5 if quick else 1
    with contextlib.ExitStack() as stack:
        name = f"be{os.getpid()}"
        labs: Labs = {each: stack.enter_context(running(f"{name}-{each}", engine=each)) for each in ENGINES}
        for lab in labs.values():
            load(lab.socket("m1"), archive(build(), "busybox:latest"))
        figures: dict[str, Figures] = {
            "run_ms": turns(labs, 20 // scale, lambda lab: timed(lab, ("run", "--rm", "busybox", "true")) * 1000),
            "exec_ms": exec_time(labs, 20 // scale),
            "sequence_per_s": turns(labs, 3, lambda lab: cycles(lab, 20 // scale, 1)),
            "eight_per_s": turns(labs, 3, lambda lab: cycles(lab, 64 // scale, 8)),
            "ping_per_s": turns(labs, 3, lambda lab: rate(lab, "/_ping", 2000 // scale)),
            "info_per_s": turns(labs, 3, lambda lab: rate(lab, "/info", 300 // scale)),
        }
        figures |= logs(labs, lines=1_000_000 // scale) | copies(labs, 200 * MIB // scale)
        figures |= with_containers(labs, scale)
    show(figures)
    print(f"kept in {keep('engine', {'quick': quick, 'load_after': os.getloadavg()[0], 'figures': report(figures)})}")


def turns(labs: Labs, count: int, measure: Callable[[Lab], float]) -> Figures:
    """Medians; the engines take turns, and the first turn is not counted."""
    found: dict[Engine, list[float]] = {engine: [] for engine in labs}
    for turn in range(count + 1):
        for engine, lab in labs.items():
            value = measure(lab)
            if turn:
                found[engine].append(value)
    return {engine: statistics.median(values) for engine, values in found.items()}


def exec_time(labs: Labs, count: int) -> Figures:
    """`docker exec C true`, in milliseconds."""
    for lab in labs.values():
        lab.docker("m1", "run", "-d", "--name", "target", "busybox", "sleep", "1d")
    try:
        return turns(labs, count, lambda lab: timed(lab, ("exec", "target", "true")) * 1000)
    finally:
        for lab in labs.values():
            lab.docker("m1", "rm", "-f", "target")


def cycles(lab: Lab, count: int, at_once: int) -> float:
    """Containers created, started, waited for and deleted per second."""

    def some(worker: int) -> None:
        with Client(lab) as client:
            for number in range(count // at_once):
                client.cycle(f"cycle{worker}-{number}")

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(some, range(at_once)))
    return count // at_once * at_once / (time.perf_counter() - began)


def rate(lab: Lab, path: str, count: int) -> float:
    """Requests per second on one connection."""
    with Client(lab) as client:
        began = time.perf_counter()
        for _ in range(count):
            client("GET", path)
        return count / (time.perf_counter() - began)


def logs(labs: Labs, lines: int) -> dict[str, Figures]:
    """Lines of 100 bytes: seconds until the container that writes them ended, and to read them back."""
    command = ["sh", "-c", f"yes {'x' * 99} | head -n {lines}"]
    written: Figures = {}
    read: Figures = {}
    for engine, lab in labs.items():
        with Client(lab) as client:
            client.create("writer", *command)
            began = time.perf_counter()
            client("POST", "/containers/writer/start")
            client("POST", "/containers/writer/wait")
            written[engine] = time.perf_counter() - began
            began = time.perf_counter()
            size = len(client("GET", "/containers/writer/logs?stdout=1"))
            read[engine] = time.perf_counter() - began
            if size != lines * 108:
                raise RuntimeError(f"{engine}: {size} bytes of logs, not {lines * 108}")
            client("DELETE", "/containers/writer")
    return {"log_write_s": written, "log_read_s": read}


def copies(labs: Labs, size: int) -> dict[str, Figures]:
    """Seconds of `docker cp` of one file in and out."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        entry = tarfile.TarInfo("big")
        entry.size = size
        tar.addfile(entry, io.BytesIO(os.urandom(MIB) * (size // MIB)))
    for lab in labs.values():
        lab.docker("m1", "run", "-d", "--name", "target", "busybox", "sleep", "1d")

    def docker(lab: Lab, *arguments: str, data: bytes = b"") -> float:
        argv = [str(program("docker")), "-H", f"unix://{lab.socket('m1')}", *arguments]
        began = time.perf_counter()
        subprocess.run(argv, input=data, check=True, stdout=subprocess.DEVNULL, env=base_environment(), timeout=120)
        return time.perf_counter() - began

    try:
        return {
            "copy_in_s": turns(labs, 3, lambda lab: docker(lab, "cp", "-", "target:/tmp", data=whole.getvalue())),
            "copy_out_s": turns(labs, 3, lambda lab: docker(lab, "cp", "target:/tmp/big", "-")),
        }
    finally:
        for lab in labs.values():
            lab.docker("m1", "rm", "-f", "target")


def with_containers(labs: Labs, scale: int) -> dict[str, Figures]:
    """Lists and the first ping with a hundred containers, memory with fifty of them running."""
    for lab in labs.values():
        with Client(lab) as client:
            for number in range(MANY):
                client.create(f"many{number}", "sleep", "1d")
    found = {
        "list_100_per_s": turns(labs, 3, lambda lab: rate(lab, "/containers/json?all=1", 200 // scale)),
        "first_ping_s": {engine: first_ping(lab) for engine, lab in labs.items()},
    }
    memory: Figures = {}
    for engine, lab in labs.items():
        with Client(lab) as client:
            for number in range(RUNNING):
                client("POST", f"/containers/many{number}/start")
        memory[engine] = memory_of(lab) / 1e6
    return found | {"memory_50_mb": memory}


def first_ping(lab: Lab) -> float:
    """Seconds from the engine's start to its first answer."""
    lab.stop("m1")
    began = time.perf_counter()
    lab.start("m1")
    return time.perf_counter() - began


def memory_of(lab: Lab) -> int:
    """Bytes (PSS) of the engine and its helpers: all of the host but its process 1 and the containers' own."""

    def settled() -> bool:
        return sum(_command(pid)[:1] == [b"sleep"] for pid in cgroups.processes(lab.name, "m1")) >= RUNNING

    until(settled, timeout_s=20, what=f"{RUNNING} containers to run")
    init = lab.host("m1").init
    total = 0
    for pid in cgroups.processes(lab.name, "m1"):
        if _command(pid)[:1] == [b"sleep"] or (init is not None and pid == init.pid):
            continue
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) << 10 for line in rollup if line.startswith("Pss:"))
    return total


def _command(pid: int) -> Sequence[bytes]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


def report(figures: dict[str, Figures]) -> dict[str, dict[str, object]]:
    """Both figures of each measurement, their ratio, the aim and whether it is met."""
    found: dict[str, dict[str, object]] = {}
    for name, row in figures.items():
        ratio = row["shoald"] / row["dockerd"]
        found[name] = {**{engine: round(value, 3) for engine, value in row.items()}, "ratio": round(ratio, 3)}
        if name in AIMS:
            aim, sense = AIMS[name]
            found[name] |= {"aim": f"{sense} {aim}", "met": ratio <= aim if sense == "at most" else ratio >= aim}
        if name == "first_ping_s":
            found[name] |= {"aim": f"at most {FIRST_PING_S} s", "met": row["shoald"] <= FIRST_PING_S}
    return found


def show(figures: dict[str, Figures]) -> None:
    """Print the table."""
    print(f"{'':<16}{'shoald':>12}{'dockerd':>12}{'ratio':>8}   aim")
    for name, row in report(figures).items():
        met = {True: "met", False: "NOT MET"}.get(bool(row["met"])) if "met" in row else ""
        print(f"{name:<16}{row['shoald']:>12}{row['dockerd']:>12}{row['ratio']:>8}   {row.get('aim', '')} {met}")
