"""API versions: which are served, and how answers are turned down to an older one.

Handlers speak the newest shape. What a version does not know is in `ADDED`: response type, key, and the version that
brought the key. Serving a new version means raising `NEWEST` and adding rows; no handler changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from api.errors import InvalidArgument

Version = tuple[int, int]

OLDEST: Version = (1, 24)
NEWEST: Version = (1, 24)

ADDED: Mapping[str, Mapping[str, Version]] = {
    # docker CLI 28 prints these when they are there; v1.24 "Display system-wide information" has none of them.
    "SystemInfo": {
        "Isolation": (1, 25),
        "InitBinary": (1, 25),
        "Runtimes": (1, 25),
        "DefaultRuntime": (1, 25),
        "LiveRestoreEnabled": (1, 25),
        "Warnings": (1, 39),
    },
    "VersionInfo": {"MinAPIVersion": (1, 25), "Components": (1, 35)},
}

_PREFIX = re.compile(r"/v(\d{1,3})\.(\d{1,3})(?=/)")


def text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def split(path: str) -> tuple[Version, str]:
    """The version a path asks for (the newest when it names none) and the path without it.

    Raises InvalidArgument with dockerd's words for a version that is not served.
    """
    match = _PREFIX.match(path)
    if match is None:
        return NEWEST, path
    version = (int(match.group(1)), int(match.group(2)))
    if version > NEWEST:
        raise InvalidArgument(
            f"client version {text(version)} is too new. Maximum supported API version is {text(NEWEST)}"
        )
    if version < OLDEST:
        raise InvalidArgument(
            f"client version {text(version)} is too old. Minimum supported API version is {text(OLDEST)}, "
            "please upgrade your client to a newer version"
        )
    return version, path[match.end() :]


def turn_down(kind: str, body: dict[str, Any], version: Version) -> dict[str, Any]:
    """`body`, an answer of type `kind`, without the keys that came after `version`."""
    added = ADDED.get(kind, {})
    return {key: value for key, value in body.items() if added.get(key, OLDEST) <= version}
