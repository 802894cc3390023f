"""Pure rules of the local volume driver: which names and options can be, and which mount they ask for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from api.errors import InvalidArgument

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
NAME_BYTES_MAX = 255
LOCAL = "local"

_OPTIONS = ("type", "o", "device", "size")

_FLAGS = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "noatime": 1024,
    "nodiratime": 2048,
    "bind": 4096,
    "rbind": 4096 | 16384,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
}
_CLEARED = {"rw": 1, "suid": 2, "dev": 4, "exec": 8, "async": 16, "atime": 1024, "diratime": 2048}


@dataclass(frozen=True)
class MountPlan:
    """The arguments of mount(2), target aside."""

    source: str
    kind: str
    flags: int
    data: str


def check_name(name: str) -> None:
    """Raises InvalidArgument with Docker's text for a name that can't be a volume's."""
    if len(name.encode()) > NAME_BYTES_MAX:
        raise InvalidArgument(f"volume name is too long: at most {NAME_BYTES_MAX} bytes")
    if len(name) == 1:
        raise InvalidArgument(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )


def check_options(name: str, options: Mapping[str, str]) -> None:
    """Raises InvalidArgument for an option the driver does not know, or a set that asks for no mount. `name`: of the
    volume, for the text."""
    for key in options:
        if key not in _OPTIONS:
            raise InvalidArgument(f'create {name}: invalid option: "{key}"')
    if "size" in options:
        raise InvalidArgument(f"create {name}: quota size requested but no quota support")
    wanted = {key: options[key] for key in ("type", "device") if key in options}
    if ("o" in options or wanted) and not all(options.get(key) for key in ("type", "device")):
        missing = "device" if options.get("type") else "type"
        raise InvalidArgument(f'create {name}: missing required option: "{missing}"')


def mount_plan(options: Mapping[str, str]) -> MountPlan | None:
    """What to mount over `_data` while the volume is used; None for a plain directory."""
    if not options.get("type") and not options.get("device"):
        return None
    flags = 0
    data: list[str] = []
    for word in filter(None, options.get("o", "").split(",")):
        if word in _FLAGS:
            flags |= _FLAGS[word]
        elif word in _CLEARED:
            flags &= ~_CLEARED[word]
        else:
            data.append(word)
    kind = options["type"]
    if kind in ("bind", "rbind"):
        flags |= _FLAGS[kind]
    return MountPlan(options["device"], "none" if flags & 4096 else kind, flags, ",".join(data))
