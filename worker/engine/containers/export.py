"""GET /containers/{id}/export: the merged root as a tar stream."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from worker.engine.containers.kit import Kit
from worker.engine.containers.rootfs import Rootfs
from worker.engine.containers.tarwriter import Tree


class Exporter:
    def __init__(self, kit: Kit, rootfs: Rootfs) -> None:
        self._kit = kit
        self._rootfs = rootfs

    async def export(self, ref: str) -> AsyncIterator[bytes]:
        """The tar in pieces. Raises NotFound before the first of them."""
        container = self._kit.store.get(ref)
        image = await self._kit.images.resolve(container.record.image_id)
        return self._pieces(container.id, list(image.layers), container.attributes())

    async def _pieces(self, container_id: str, layers: list[Path], attributes: dict[str, str]) -> AsyncIterator[bytes]:
        async with self._rootfs.mounted(container_id, layers) as root:
            pieces = tar_tree(root)
            while piece := await self._kit.disk.run(next, pieces, b""):
                yield piece
        self._kit.events.publish("container", "export", container_id, attributes)


def tar_tree(root: Path) -> Iterator[bytes]:
    """A tar of everything in `root` on its own file system, in pieces; blocking."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from Tree(top, one_device=True).pieces()
    finally:
        os.close(top)
