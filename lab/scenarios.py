"""Fault scenarios by name: each is an end-to-end test that makes its own lab, breaks something, and has deadlines."""

import ast
import os
import subprocess
import sys

from lab.paths import ROOT, LabError

FILES = (
    "test_managers.py",
    "test_manager_faults.py",
    "test_service_faults.py",
    "test_service_images.py",
    "test_network.py",
    "test_network_faults.py",
    "test_network_traffic.py",
)
"""Below tests/e2e; those that are there."""


def scenarios() -> dict[str, str]:
    """Name -> pytest's address of the test. Names are those of the tests, with dashes."""
    found = {}
    for file in FILES:
        path = ROOT / "tests" / "e2e" / file
        if path.exists():
            for item in ast.parse(path.read_text()).body:
                if isinstance(item, ast.FunctionDef) and item.name.startswith("test_"):
                    found[item.name.removeprefix("test_").replace("_", "-")] = f"tests/e2e/{file}::{item.name}"
    return found


def run(name: str, times: int) -> int:
    """Run one so many times in a row, until it fails; the exit status. A name may be cut short if it stays clear."""
    known = scenarios()
    fits = [name] if name in known else [each for each in known if name in each]
    if len(fits) != 1:
        raise LabError(f"{len(fits)} scenarios fit {name!r}; script/lab scenario lists them")
    for number in range(1, times + 1):
        print(f"{fits[0]}: run {number} of {times}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-s", known[fits[0]]],
            cwd=ROOT,
            env=os.environ | {"SHOAL_TEST_RUN": f"s{os.getpid()}", "SHOAL_LONG": "1"},
            check=False,
        )
        if done.returncode:
            return done.returncode
    return 0
