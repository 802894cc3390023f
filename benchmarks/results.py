"""Keeping figures: one JSON file a run, with what one needs to compare it with another run."""

import datetime
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

RESULTS = Path(__file__).resolve().parent / "results"


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds: median, fastest, slowest, and how many."""
    return {
        "median_ms": round(statistics.median(seconds) * 1000, 1),
        "min_ms": round(min(seconds) * 1000, 1),
        "max_ms": round(max(seconds) * 1000, 1),
        "count": len(seconds),
    }


def machine() -> dict[str, object]:
    """What the figures depend on besides the code."""
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "memory_kb": int(memory.split()[1]),
        "load_1min": os.getloadavg()[0],
    }


def keep(name: str, figures: dict[str, object]) -> Path:
    """Write `results/<name>-<date>.json` and return its path."""
    now = datetime.datetime.now(datetime.UTC)
    git = ["git", "-C", str(RESULTS), "describe", "--always", "--dirty", "--abbrev=12"]
    RESULTS.mkdir(exist_ok=True)
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    path = RESULTS / f"{name}-{now:%Y%m%dT%H%M%SZ}.json"
    head = {"benchmark": name, "date": now.isoformat(timespec="seconds"), "commit": commit, "machine": machine()}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(head | figures)) + b"\n")
    return path
