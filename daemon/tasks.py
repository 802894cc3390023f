"""The engine as the swarm's executor sees it."""

from __future__ import annotations

import contextlib

from api.errors import NotFound
from api.types.auth import AuthConfig
from api.types.dataplane import OverlayChange
from daemon.engine import Engine
from worker.engine.parts import ImageView
from worker.exec.adapter import EngineAdapter
from worker.exec.body import TASK_ID_LABEL


class _TaskImages:
    """Satisfies `worker.exec.adapter.ImageApi`: looking up is the store's, pulling the service's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def resolve(self, reference: str) -> ImageView:
        return await self._engine.store.resolve(reference)

    async def pull(self, reference: str, auth: AuthConfig | None = None, progress: object = None) -> str:
        del progress
        return await self._engine.images.pull(reference, auth)


def task_engine(engine: Engine) -> EngineAdapter:
    """What runs this node's tasks."""
    return EngineAdapter(engine.containers, _TaskImages(engine), engine.volumes, engine.networks)


async def remove_task_containers(engine: Engine) -> None:
    """Remove every container of a swarm task, and the swarm's networks: this node left its swarm."""
    for summary in await engine.containers.list(all=True, filters={"label": [TASK_ID_LABEL]}):
        with contextlib.suppress(NotFound):
            await engine.containers.remove(summary.id, force=True, volumes=True)
    await engine.networks.apply(OverlayChange(index=0, complete=True))
