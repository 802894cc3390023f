"""Time as a value that is handed in, and the RFC 3339 forms the API uses.

Pure code takes `now` arguments (nanoseconds since the epoch, UTC); shells take a `Clock`.
"""

from __future__ import annotations

import re
import time
from calendar import timegm
from typing import Protocol

NS = 1_000_000_000
ZERO_TIME = "0001-01-01T00:00:00Z"
"""What Docker prints for a time that was never set."""

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9})\d*)?)?)?([Zz]|[+-]\d\d:\d\d)?"
)


class Clock(Protocol):
    """Where shells read the time."""

    def now_ns(self) -> int:
        """Wall-clock nanoseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that only go forward."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


def rfc3339nano(ns: int) -> str:
    """Nanoseconds since the epoch as Go's RFC3339Nano in UTC; 0 is the zero time."""
    if ns == 0:
        return ZERO_TIME
    seconds, fraction = divmod(ns, NS)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    if fraction:
        text += f".{fraction:09d}".rstrip("0")
    return text + "Z"


def parse_time(text: str) -> int:
    """A time as clients write it (RFC 3339, or seconds with an optional fraction) in nanoseconds.

    Raises:
        ValueError: the text is neither.
    """
    if re.fullmatch(r"-?\d+(\.\d*)?", text):
        whole, _, fraction = text.partition(".")
        return int(whole) * NS + int((fraction + "000000000")[:9])
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"not a timestamp: {text!r}")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    seconds = timegm((year, month, day, hour, minute, second, 0, 0, 0))
    zone = match.group(8)
    if zone and zone not in "Zz":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds -= offset if zone[0] == "+" else -offset
    fraction = match.group(7) or ""
    return seconds * NS + int((fraction + "000000000")[:9])
