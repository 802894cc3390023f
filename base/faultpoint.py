"""Points at which the daemon kills itself (-9), so that tests see what a crash exactly there leaves.

`SHOAL_CRASH_AT=netns.made` ends it when that point is first reached after the daemon became ready, `netns.made:3` the
third time. The points stand where something durable or something in the kernel has just been made or taken away.
Unset, a point costs a comparison, and the daemon is never ended.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

VARIABLE = "SHOAL_CRASH_AT"
TABLES = (
    "containers",
    "sandboxes",
    "networks",
    "volumes",
    "image_holds",
    "images",
    "plugins",
)
"""Each write of records of these has two points: `records.<table>.before` and `.after`."""
POINTS = frozenset(
    {
        *(f"records.{table}.{when}" for table in TABLES for when in ("before", "after")),
        "root.mounted",
        "root.removing",
        "bridge.made",
        "volume.aside",
        "parent.made",
        "netns.made",
        "link.made",
        "ports.published",
        "link.removed",
        "netns.removed",
        "monitor.directory",
        "monitor.forked",
        "monitor.created",
        "monitor.starting",
        "monitor.started",
        "removal.process",
        "removal.network",
        "removal.volumes",
        "removal.root",
        "layer.placed",
        "image.synced",
        "plugin.mounted",
        "plugin.running",
    }
)

_armed = ""
_left = 0


def parse(text: str) -> tuple[str, int]:
    """`point` or `point:N` as (point, N). Raises ValueError that names the variable."""
    point, _, number = text.partition(":")
    if point not in POINTS:
        raise ValueError(f"{VARIABLE}: there is no point {point!r}: {', '.join(sorted(POINTS))}")
    if number and (not number.isdecimal() or int(number) < 1):
        raise ValueError(f"{VARIABLE}: {number!r} is no number of times")
    return point, int(number or 1)


def arm(text: str) -> None:
    """From now on the point of `text` (see `parse`) ends this process; empty: none does."""
    global _armed, _left
    _armed, _left = parse(text) if text else ("", 0)


def reach(point: str) -> None:
    """The work has come to this point. Any thread."""
    global _left
    if point == _armed:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def reach_records(tables: Iterable[str], when: str) -> None:
    """Records of these tables are about to be written (`before`), or are on disk (`after`)."""
    if _armed:
        for table in set(tables):
            reach(f"records.{table}.{when}")
