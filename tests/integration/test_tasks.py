"""Tasks on the real engine, through a kill -9 of the daemon: adopted, not restarted, and gone without a trace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

SCRIPT = """
"$0" -m tests.integration.task_phases run "$1" > "$1/first" &
until [ -s "$1/first" ]; do kill -0 $! || exit 1; sleep 0.1; done
kill -9 $!
exec "$0" -m tests.integration.task_phases again "$1"
"""


def lives(directory: Path) -> list[dict[str, Any]]:
    """What both lives told. A pid namespace takes every process with it, whatever happens."""
    apart = ["unshare", "--net", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*apart, "sh", "-c", SCRIPT, sys.executable, str(directory)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (directory / "first").read_text().splitlines() + done.stdout.splitlines()]


def test_tasks_through_a_killed_daemon(tmp_path: Path) -> None:
    first, second, third = lives(tmp_path)
    told = {task_id: tuple(fields[:3]) for task_id, fields in first["statuses"].items()}
    assert told.pop("unstartable")[1].startswith("starting container failed: ")
    assert told.pop("no-image")[1].startswith("No such image: 127.0.0.1:9/nope:latest (")
    assert told == {
        "sleeper": ("running", "", 0),
        "failing": ("failed", "task: non-zero exit (3)", 3),
        "done": ("complete", "", 0),
        "with-volume": ("complete", "", 0),
        "bad-mount": ("rejected", "Mounts: invalid bind mount source, must be an absolute path: relative", 0),
    }
    states = {task_id: fields[0] for task_id, fields in first["statuses"].items()}
    assert (states["unstartable"], states["no-image"]) == ("failed", "rejected")
    assert second["statuses"].pop("adopted") == first["statuses"]["sleeper"], "the same container and process"
    assert second["statuses"].pop("sleeper")[:3] == ["shutdown", "", 137]
    first["statuses"].pop("sleeper")
    assert second["statuses"] == first["statuses"], "what had ended stays as it was told"
    assert third == {"statuses": {}, "left": []}
