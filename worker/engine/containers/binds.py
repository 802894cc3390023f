"""Bind and volume specifications: `[source:]destination[:options]` as text in, parts out. Pure (v1.24 Binds)."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from api.errors import InvalidArgument

_PROPAGATION = frozenset({"shared", "slave", "private", "rshared", "rslave", "rprivate"})
_LABELS = frozenset({"z", "Z"})
_ACCESS = frozenset({"rw", "ro"})
_COPY = frozenset({"nocopy"})


@dataclass(frozen=True)
class Bind:
    """One parsed specification. A `source` that starts with `/` is a host path, else a volume's name."""

    source: str
    destination: str
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    copy: bool = True

    @property
    def is_volume(self) -> bool:
        return not self.source.startswith("/")


def parse_bind(text: str) -> Bind:
    """`/host:/there`, `/host:/there:ro`, `name:/there`, `name:/there:ro,nocopy`, or `/there` (anonymous volume).

    Raises InvalidArgument with Docker's texts.
    """
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise InvalidArgument(f"invalid volume specification: '{text}'")
    if len(parts) == 1:
        return Bind("", check_destination(parts[0], text, "volume"))
    kind = "bind" if parts[0].startswith("/") else "volume"
    mode = parts[2] if len(parts) == 3 else ""
    options = _options(mode, volume=kind == "volume")
    source, destination = parts[0], check_destination(parts[1], text, kind)
    if source.startswith("/"):
        source = posixpath.normpath(source)
    elif "/" in source:
        raise InvalidArgument(
            f'create {source}: "{source}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    propagation = next((option for option in options if option in _PROPAGATION), "")
    return Bind(source, destination, mode, "ro" not in options, propagation, "nocopy" not in options)


def check_destination(path: str, text: str = "", kind: str = "") -> str:
    """A mount point in the container, cleaned. `text` and `kind` (`bind`, `volume`): the specification it is of.

    Raises InvalidArgument.
    """
    where = f"invalid volume specification: '{text}': invalid mount config for type \"{kind}\": " if kind else ""
    if not path.startswith("/"):
        raise InvalidArgument(f"{where}invalid mount path: '{path}' mount path must be absolute")
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if clean == "/":
        raise InvalidArgument(f"{where}invalid specification: destination can't be '/'")
    return clean


def _options(mode: str, *, volume: bool) -> set[str]:
    options = [option for option in mode.split(",") if option]
    chosen = set(options)
    allowed = _ACCESS | _LABELS | (_COPY if volume else _PROPAGATION)
    groups = (_ACCESS, _LABELS, _PROPAGATION)
    bad = len(chosen) != len(options) or not chosen <= allowed or any(len(chosen & group) > 1 for group in groups)
    if bad:
        raise InvalidArgument(f"invalid mode: {mode}")
    return chosen


def parse_volumes_from(text: str) -> tuple[str, str]:
    """`name[:ro|rw]` -> (container reference, mode or "")."""
    reference, _, mode = text.partition(":")
    if not reference:
        raise InvalidArgument(f"invalid volumes-from specification: '{text}'")
    if mode not in ("", "ro", "rw", "z", "Z"):
        raise InvalidArgument(f"invalid mode: {mode}")
    return reference, mode
