"""Points at which the daemon kills itself: which there are, when they count, and that nothing happens unasked."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from base import faultpoint

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("text", ["nowhere", "netns.made:0", "netns.made:x", "netns.made:-1", ":1"])
def test_what_is_no_point_is_refused_by_the_name_of_the_variable(text: str) -> None:
    with pytest.raises(ValueError, match="SHOAL_CRASH_AT"):
        faultpoint.parse(text)


def test_a_point_and_how_often() -> None:
    assert faultpoint.parse("netns.made") == ("netns.made", 1)
    assert faultpoint.parse("netns.made:3") == ("netns.made", 3)


def test_unasked_nothing_happens() -> None:
    for point in faultpoint.POINTS:
        faultpoint.reach(point)
    faultpoint.reach_records(faultpoint.TABLES, "before")


@pytest.mark.parametrize(
    ("armed", "last"), [("netns.made", "0"), ("netns.made:3", "2"), ("records.volumes.after:2", "1"), ("", "9")]
)
def test_it_ends_the_process_there(armed: str, last: str) -> None:
    program = (
        "import sys; from base import faultpoint as f; f.arm(sys.argv[1])\n"
        "for n in range(10): print(n, flush=True); f.reach('netns.made'); f.reach_records(['volumes'], 'after')"
    )
    done = subprocess.run([sys.executable, "-c", program, armed], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (-signal.SIGKILL if armed else 0)
    assert done.stdout.split()[-1] == last


def test_every_point_stands_somewhere_once() -> None:
    found = [
        point
        for path in (ROOT / "worker").rglob("*.py")
        for point in re.findall(r'faultpoint\.reach\("([^"]+)"\)', path.read_text())
    ]
    assert sorted(found) == sorted(point for point in faultpoint.POINTS if not point.startswith("records."))
