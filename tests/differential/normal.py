"""Takes away what differs between any two runs of the same commands: identities, times, addresses, process numbers.

Pure. Invariant: what is replaced is replaced by a word that tells its kind, so that an identity in place of a time, or
nothing in place of either, still differs.
"""

from __future__ import annotations

import json
import re
from typing import TypeAlias

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?: ?(?:Z|[+-]\d\d:?\d\d))?(?: (?:UTC|[A-Z]{3}))?"
_ZERO = "0001-01-01T00:00:00Z"
_UNITS = r"(?:second|minute|hour)s?"

_TEXT: tuple[tuple[re.Pattern[str], str], ...] = (
    # With --rm the CLI at this API version removes the container itself, and may lose the race with its own end.
    (re.compile(r'time="\S+" level=error msg="error (?:removing container|getting events).*context canceled"\n'), ""),
    (re.compile(_TIME), "<time>"),
    # An image's identity is its content: it must be the same on both sides.
    (re.compile(r"(?<![0-9a-f])(?<!sha256:)[0-9a-f]{64}(?![0-9a-f])"), "<id>"),
    (re.compile(r"(?<![0-9a-zA-Z:.])(?=[0-9a-f]*[0-9])[0-9a-f]{12}(?![0-9a-zA-Z])"), "<short-id>"),
    # Objects of a swarm: 25 digits to the base of 36.
    (re.compile(r"(?<![0-9a-z])(?=[a-z]*[0-9])[0-9a-z]{25}(?![0-9a-z])"), "<swarm-id>"),
    (re.compile(r"\b02:42(?::[0-9a-f]{2}){4}\b"), "<mac>"),
    # The subnets that engines choose by themselves.
    (re.compile(r"\b(?:172\.(?:1[6-9]|2\d|3[01])|192\.168)\.\d{1,3}\.\d{1,3}/\d\d\b"), "<subnet>"),
    (re.compile(r"\b(?:172\.(?:1[6-9]|2\d|3[01])|192\.168)\.\d{1,3}\.\d{1,3}\b"), "<ip>"),
    (re.compile(rf"(?:Less than a second|About an? {_UNITS}|\d+ {_UNITS})(?= ago)"), "<while>"),
    (re.compile(rf"\bUp (?:Less than a second|About an? {_UNITS}|\d+ {_UNITS})"), "Up <while>"),
    (re.compile(r"/var/lib/(?:docker|shoal)/"), "<data>/"),
)

_PATHS = {"ResolvConfPath", "HostnamePath", "HostsPath", "LogPath", "SandboxKey"}
_IDENTITIES = {"SandboxID", "EndpointID", "NetworkID"}
_NUMBERS = {"Pid", "PID", "SizeRw", "SizeRootFs", "Created", "Index"}


def text(value: str, places: dict[str, str] | None = None) -> str:
    """The text without what is of one run only; `places` maps directories of this run to words."""
    for path, word in (places or {}).items():
        value = value.replace(path, word)
    zero = value.split(_ZERO)
    for pattern, word in _TEXT:
        zero = [pattern.sub(word, part) for part in zero]
    # Columns are as wide as their widest cell: padding is not compared, the columns are.
    return "\n".join(re.sub(r" {3,}", "   ", line.rstrip(" ")) for line in _ZERO.join(zero).split("\n"))


def parse(output: str) -> Json | None:
    """The output as JSON when it is an object or a list, or several objects on lines of their own; else None."""
    stripped = output.strip()
    if not stripped.startswith(("{", "[")):
        return None
    try:
        return json.loads(stripped)  # type: ignore[no-any-return]
    except ValueError:
        pass
    try:
        return [json.loads(line) for line in stripped.splitlines() if line.strip()]
    except ValueError:
        return None


_UNORDERED = ("Binds", "Env")
"""The docker CLI sends these as its own maps happen to be walked."""


def value(found: Json, places: dict[str, str] | None = None, key: str = "") -> Json:
    """A JSON value without what is of one run only."""
    if isinstance(found, dict):
        return {text(each): value(inner, places, each) for each, inner in sorted(found.items())}
    if isinstance(found, list):
        items = [value(inner, places) for inner in found]
        if key in _UNORDERED:
            return sorted(items, key=str)
        return sorted(items, key=_destination) if _are_mounts(items) else items
    if key in _NUMBERS and isinstance(found, int) and found:
        return f"<{key}>"
    if isinstance(found, str):
        if key in _PATHS and found:
            return "<path>"
        if key in _IDENTITIES and found:
            return "<id>"
        return text(found, places)
    return found


def _are_mounts(items: list[Json]) -> bool:
    """Mounts have no order: dockerd shows them as its map happens to be walked."""
    return bool(items) and all(isinstance(item, dict) and "Destination" in item for item in items)


def _destination(item: Json) -> str:
    assert isinstance(item, dict)
    return str(item["Destination"])
