"""`docker run --rm` by the real CLI, many times: it leaves on the destroy event and must have its answer by then."""

from __future__ import annotations

import subprocess

import pytest

from lab.paths import base_environment, program
from tests.integration.shoald import Api

pytestmark = pytest.mark.root

RUNS = 20


def test_run_rm_never_complains(api: Api) -> None:
    command = [
        str(program("docker")),
        "-H",
        f"unix://{api.path}",
        "run",
        "--rm",
        "--network",
        "none",
        "busybox",
        "true",
    ]
    for _ in range(RUNS):
        done = subprocess.run(command, capture_output=True, text=True, env=base_environment(), timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert api.ok("GET", "/containers/json", all=1) == []
