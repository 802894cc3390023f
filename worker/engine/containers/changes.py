"""GET /containers/{id}/changes: the writable layer compared with the image's layers."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from api.types.container import Change
from worker.engine.containers.kit import Kit

MODIFIED, ADDED, DELETED = 0, 1, 2


class Changes:
    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def changes(self, ref: str) -> list[Change]:
        """Sorted by path; a directory counts as modified if something in it changed."""
        record = self._kit.store.get(ref).record
        image = await self._kit.images.resolve(record.image_id)
        upper = self._kit.layout.upper(record.id)
        return await self._kit.disk.run(compare, upper, [*image.layers, self._kit.layout.init])


def compare(upper: Path, layers: Sequence[Path]) -> list[Change]:
    """`layers` lowest first. What overlayfs keeps in `upper`: copied or new entries, whiteouts, opaque directories."""
    found: list[Change] = []
    pending = [""]
    while pending:
        directory = pending.pop()
        with os.scandir(upper / directory.lstrip("/")) as entries:
            for entry in entries:
                path = f"{directory}/{entry.name}"
                info = entry.stat(follow_symlinks=False)
                below = _below(path, layers)
                if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                    if below is not None:
                        found.append(Change(path=path, kind=DELETED))
                    continue
                found.append(Change(path=path, kind=ADDED if below is None else MODIFIED))
                if stat.S_ISDIR(info.st_mode):
                    pending.append(path)
                    if below is not None and _opaque(entry.path):
                        found += _hidden(path, upper, layers)
    return sorted(found, key=lambda change: change.path)


def _below(path: str, layers: Sequence[Path]) -> os.stat_result | None:
    """What the image has at `path`, None if nothing. Walks down each layer, so that whiteouts and opaque
    directories of upper layers count."""
    parts = path.strip("/").split("/")
    for layer in reversed(layers):
        position = layer
        for index, part in enumerate(parts):
            position = position / part
            try:
                info = os.lstat(position)
            except (FileNotFoundError, NotADirectoryError):
                break
            if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                return None
            if index == len(parts) - 1:
                return info
            if not stat.S_ISDIR(info.st_mode):
                return None
        parent = layer.joinpath(*parts[:-1])
        if any(_opaque(str(directory)) for directory in (parent, *parent.parents) if directory.is_relative_to(layer)):
            return None
    return None


def _opaque(path: str) -> bool:
    try:
        return os.getxattr(path, "trusted.overlay.opaque", follow_symlinks=False) == b"y"
    except OSError:
        return False


def _hidden(path: str, upper: Path, layers: Sequence[Path]) -> list[Change]:
    """What an opaque directory hides of the image and does not have itself."""
    names: set[str] = set()
    for layer in layers:
        try:
            names.update(os.listdir(layer / path.lstrip("/")))
        except (FileNotFoundError, NotADirectoryError):
            continue
    own = set(os.listdir(upper / path.lstrip("/")))
    return [
        Change(path=f"{path}/{name}", kind=DELETED)
        for name in names - own
        if _below(f"{path}/{name}", layers) is not None
    ]
