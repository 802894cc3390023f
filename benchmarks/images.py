"""Images beside dockerd 20.10: load, save, push, pull and removal of an image of 200 MB, builds cold and cached, a
large context; and what a pull of 2 GB costs shoald in memory.

Both engines live in lab hosts of the same kind, each with a registry of its own, and take turns within each
measurement. Times are of the docker CLI, medians; `ratio` is shoald over dockerd.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.results import keep
from benchmarks.start import ENGINES
from lab.dockerd import load
from lab.hosts import host_lib
from lab.image import archive, build
from lab.lab import Lab, running
from lab.network import REGISTRY
from lab.paths import base_environment, program
from lab.state import Engine

AIMS = {
    "load_s": 0.7,
    "save_s": 0.7,
    "push_s": 0.7,
    "pull_s": 0.7,
    "rmi_s": 1.0,
    "build_cold_s": 0.4,
    "build_cached_s": 0.7,
}
"""Wanted ratios of shoald to dockerd, at most; what is not here is reported as it is."""
MEMORY_AIM_MB = 150
IMAGE = f"{REGISTRY}:5000/bench:v1"
MIB = 1 << 20
LAYERS = 4
DOCKERFILE = """\
FROM busybox
ENV A=1 B=2
LABEL made.by=benchmark
WORKDIR /work
COPY a.txt /work/a.txt
RUN echo one > one
RUN echo two > two
RUN cat one two > three
EXPOSE 80
CMD ["cat", "three"]
"""

Labs = dict[Engine, Lab]
Times = dict[str, dict[Engine, float]]


def run(*, turns: int, size_mb: int, memory_mb: int) -> None:
    """Measure, print, keep."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-bench-")))
        name = f"bi{os.getpid()}"
        labs: Labs = {each: stack.enter_context(running(f"{name}-{each}", engine=each)) for each in ENGINES}
        for lab in labs.values():
            load(lab.socket("m1"), archive(build(), "busybox:latest"))
        tar = write_image(place / "image.tar", size_mb)
        times = interleaved(labs, turns, lambda lab: life(lab, tar))
        times |= interleaved(labs, turns * 2, lambda lab: builds(lab, contexts(place, size_mb)))
        memory = memory_of_pull(labs["shoald"], write_image(place / "big.tar", memory_mb)) if memory_mb else {}
    show(times, memory)
    facts = {"turns": turns, "size_mb": size_mb, "load_after": os.getloadavg()[0]}
    print(f"kept in {keep('images', {**facts, 'figures': report(times), 'memory_above_idle_mb': memory})}")


def interleaved(labs: Labs, turns: int, measure: Callable[[Lab], dict[str, float]]) -> Times:
    """Medians of what `measure` returns; the engines take turns, and the first turn is not counted."""
    found: dict[str, dict[Engine, list[float]]] = {}
    for turn in range(turns + 1):
        for engine, lab in labs.items():
            for name, seconds in measure(lab).items():
                if turn:
                    found.setdefault(name, {each: [] for each in labs})[engine].append(seconds)
    return {name: {each: statistics.median(some) for each, some in row.items()} for name, row in found.items()}


def docker(lab: Lab, *arguments: str, output: Path | None = None) -> float:
    """Seconds that one docker command takes, with nothing left to write to the disk before."""
    argv = [str(program("docker")), "-H", f"unix://{lab.socket('m1')}", *arguments]
    environment = base_environment() | {"DOCKER_BUILDKIT": "0"}
    os.sync()  # what the other engine left unwritten is not for this one to wait for
    with open(output or os.devnull, "wb") as out:
        began = time.perf_counter()
        done = subprocess.run(argv, stdout=out, stderr=subprocess.PIPE, env=environment, timeout=600, check=False)
        took = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
    return took


# --- what is measured ---


def life(lab: Lab, tar: Path) -> dict[str, float]:
    """One image from its archive to a registry and back."""
    forget_registry(lab)
    found = {"load_s": docker(lab, "load", "-q", "-i", str(tar))}
    found["save_s"] = docker(lab, "save", IMAGE, output=Path(os.devnull))
    found["push_s"] = docker(lab, "push", "-q", IMAGE)
    first = docker(lab, "rmi", IMAGE)
    found["pull_s"] = docker(lab, "pull", "-q", IMAGE)
    found["rmi_s"] = (first + docker(lab, "rmi", IMAGE)) / 2
    return found


def builds(lab: Lab, places: tuple[Path, Path]) -> dict[str, float]:
    """The same Dockerfile cold and cached, and one that copies a large context."""
    small, large = places
    found = {
        "build_cold_s": docker(lab, "build", "--no-cache", "-t", "small", str(small)),
        "build_cached_s": docker(lab, "build", "-t", "small", str(small)),
        "context_s": docker(lab, "build", "--no-cache", "-t", "large", str(large)),
    }
    docker(lab, "rmi", "small", "large")
    return found


def memory_of_pull(lab: Lab, tar: Path) -> dict[str, float]:
    """Megabytes that shoald's resident memory rises above its idle value, at the most, while it loads, pushes and
    pulls one large image; a fresh process for each."""
    forget_registry(lab)
    found: dict[str, float] = {}
    for what, command in (
        ("load", ("load", "-q", "-i", str(tar))),
        ("push", ("push", "-q", IMAGE)),
        ("pull", ("pull", "-q", IMAGE)),
    ):
        if what == "pull":
            docker(lab, "rmi", IMAGE)
        lab.stop("m1")
        lab.start("m1")
        idle = _memory(lab, "VmRSS")
        docker(lab, *command)
        found[what] = round(_memory(lab, "VmHWM") - idle, 1)
    docker(lab, "rmi", IMAGE)
    return found


def _memory(lab: Lab, field: str) -> float:
    daemon = lab.host("m1").daemon
    assert daemon is not None, "the engine runs"
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def forget_registry(lab: Lab) -> None:
    """Empty the registry, so that a push sends everything."""
    shutil.rmtree(host_lib(lab.name, "registry") / "registry" / "docker", ignore_errors=True)


# --- what it is measured with ---


def write_image(path: Path, size_mb: int) -> Path:
    """An archive of an image in four layers of files of 256 KiB, half of whose content does not compress."""
    words = random.Random(size_mb)
    with tarfile.open(path, "w") as tar:
        layers, digests = [], []
        for number in range(LAYERS):
            with tempfile.TemporaryFile(dir=path.parent) as layer:
                _fill(layer, words, size_mb * MIB // LAYERS, f"data{number}")
                layer.seek(0)
                digests.append("sha256:" + hashlib.file_digest(layer, "sha256").hexdigest())
                entry = tarfile.TarInfo(f"{number}/layer.tar")
                entry.size = layer.seek(0, os.SEEK_END)
                layer.seek(0)
                tar.addfile(entry, layer)
                layers.append(entry.name)
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": digests}}
        manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": layers}]
        for name, document in (("config.json", config), ("manifest.json", manifest)):
            raw = json.dumps(document).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))
    return path


def _fill(file: "tempfile._TemporaryFileWrapper[bytes]", words: random.Random, size: int, directory: str) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(size // (256 << 10)):
            entry = tarfile.TarInfo(f"{directory}/{number % 20}/file{number}")
            content = words.randbytes(128 << 10) + b"%08d some text\n" % number * ((128 << 10) // 19)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def contexts(place: Path, size_mb: int) -> tuple[Path, Path]:
    """Directories to build: a small one, and one of `size_mb`; made once."""
    small, large = place / "small", place / "large"
    if not small.exists():
        small.mkdir()
        (small / "Dockerfile").write_text(DOCKERFILE)
        (small / "a.txt").write_text("a\n")
        large.mkdir()
        (large / "Dockerfile").write_text("FROM busybox\nCOPY . /data\n")
        words = random.Random(1)
        for number in range(size_mb * 4):
            (large / f"file{number}").write_bytes(words.randbytes(256 << 10))
    return small, large


# --- what is told ---


def report(times: Times) -> dict[str, dict[str, object]]:
    """Both figures of each measurement, their ratio, the aim and whether it is met."""
    found: dict[str, dict[str, object]] = {}
    for name, row in times.items():
        ratio = row["shoald"] / row["dockerd"]
        found[name] = {**{engine: round(value, 3) for engine, value in row.items()}, "ratio": round(ratio, 2)}
        if name in AIMS:
            found[name] |= {"aim": AIMS[name], "met": ratio <= AIMS[name]}
    return found


def show(times: Times, memory: dict[str, float]) -> None:
    """Print the tables."""
    print(f"{'':<16}{'shoald':>10}{'dockerd':>10}{'ratio':>8}   aim")
    for name, row in report(times).items():
        met = {True: "met", False: "NOT MET"}[bool(row["met"])] if "met" in row else ""
        print(f"{name:<16}{row['shoald']:>10}{row['dockerd']:>10}{row['ratio']:>8}   {row.get('aim', '')} {met}")
    if memory:
        told = ", ".join(f"{name} {value:g} MB" for name, value in memory.items())
        print(f"shoald's memory above idle, at most: {told} (aim for the pull: {MEMORY_AIM_MB} MB)")
