"""Values in the words the history of an image uses: those of Go's `%q` and of its durations. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

_UNITS_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": 1_000_000_000,
             "m": 60_000_000_000, "h": 3_600_000_000_000}  # fmt: skip
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_RUNES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 39: "\\'", 92: "\\\\"}


def quoted(text: str) -> str:
    """`"text"`."""
    return json.dumps(text, ensure_ascii=False)


def quoted_list(words: Iterable[str]) -> str:
    """`["a" "b"]`."""
    return f"[{' '.join(quoted(word) for word in words)}]"


def plain_list(words: Iterable[str]) -> str:
    """`[a b]`."""
    return f"[{' '.join(words)}]"


def rune(number: int) -> str:
    """A small number as a quoted character: 2 is `'\\x02'`."""
    if number in _RUNES:
        return f"'{_RUNES[number]}'"
    return f"'{chr(number)}'" if 32 <= number < 127 else f"'\\x{number:02x}'"


def parse_duration(text: str) -> int:
    """`1m30s` in nanoseconds. Raises ValueError with Go's words."""
    if text in ("0", "+0", "-0"):
        return 0
    body = text.lstrip("+-")
    parts = _PART.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        raise ValueError(f'time: invalid duration "{text}"')
    value = round(sum(float(number) * _UNITS_NS[unit] for number, unit in parts))
    return -value if text.startswith("-") else value


def duration(ns: int) -> str:
    """Nanoseconds as `1m30s`."""
    if ns == 0:
        return "0s"
    for unit, size in (("ns", 1_000), ("µs", 1_000_000), ("ms", 1_000_000_000)):
        if abs(ns) < size:
            return f"{ns * 1000 / size:.9f}".rstrip("0").rstrip(".") + unit
    seconds, rest = divmod(ns, 60_000_000_000)
    text = f"{rest / 1_000_000_000:.9f}".rstrip("0").rstrip(".") + "s"
    hours, minutes = divmod(seconds, 60)
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}" if minutes else text
