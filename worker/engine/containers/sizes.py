"""How much disk a container takes: its writable layer, and all layers together."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from api.errors import NotFound
from worker.engine.containers.kit import Kit
from worker.engine.containers.records import ContainerRecord


class Sizes:
    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def of(self, record: ContainerRecord) -> tuple[int, int]:
        """(bytes in the writable layer, bytes of everything)."""
        writable = await self._kit.disk.run(tree_bytes, [self._kit.layout.upper(record.id)])
        try:
            image = await self._kit.images.resolve(record.image_id)
        except NotFound:
            return writable, writable
        return writable, writable + await self._kit.disk.run(tree_bytes, list(image.layers))


def tree_bytes(roots: Sequence[Path]) -> int:
    """Sum of the sizes of regular files and links below; what disappears meanwhile is passed over."""
    total = 0
    seen: set[tuple[int, int]] = set()
    pending = [os.fspath(root) for root in roots]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(info.st_mode):
                        pending.append(entry.path)
                    elif (info.st_dev, info.st_ino) not in seen:
                        if info.st_nlink > 1:
                            seen.add((info.st_dev, info.st_ino))
                        total += info.st_size
        except (FileNotFoundError, NotADirectoryError):
            continue
    return total
