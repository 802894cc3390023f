"""Containers on the real engine, through a kill -9 of the daemon: they run on, nothing is lost, nothing is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

SCRIPT = """
"$0" -m tests.integration.container_phases run "$1" > "$1/first" &
until [ -s "$1/first" ]; do kill -0 $! || exit 1; sleep 0.1; done
kill -9 $!
sleep 1.2
exec "$0" -m tests.integration.container_phases again "$1"
"""


def lives(directory: Path) -> list[dict[str, Any]]:
    """What both lives told. A pid namespace takes every process with it, whatever happens."""
    apart = ["unshare", "--net", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*apart, "sh", "-c", SCRIPT, sys.executable, str(directory)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (directory / "first").read_text().splitlines() + done.stdout.splitlines()]


@pytest.mark.promise(
    "containers.changes.b1",
    "containers.changes.b2",
    "containers.changes.b3",
    "containers.changes.b4",
    "containers.export.b1",
)
def test_containers_through_a_killed_daemon(tmp_path: Path) -> None:
    first, second = lives(tmp_path)
    assert first["changes"] == [["/etc", 0], ["/etc/group", 2], ["/new", 1], ["/v", 1]]
    assert first["exported"] > 1_000_000
    assert second["statuses"] == {"counter": "running", "always": "running", "never": "created"}
    assert second["pid"] == first["pid"]
    assert second["brief"] == 9
    assert second["gapless"]
    assert second["lines"] > 50
    assert second["attached"] > 50
    assert second["left"] == []
