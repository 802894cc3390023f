"""The whole daemon: engine, swarm membership and API, started in that order and stopped in the reverse."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from api.server.app import App
from api.server.routers import (
    build,
    container,
    debug,
    image,
    network,
    node,
    plugin,
    service,
    swarm,
    system,
    task,
    volume,
)
from api.server.routers import exec as exec_router
from base import logs
from base.clock import SystemClock
from daemon import VERSION
from daemon.config import Config, reloaded
from daemon.debug import Debug
from daemon.engine import Engine
from daemon.listeners import forget_sockets, listen
from daemon.membership import Membership
from daemon.networks import Networks
from daemon.system import System
from daemon.tasks import remove_task_containers, task_engine

log = logging.getLogger(__name__)


class Daemon:
    """One per process."""

    def __init__(self, config: Config) -> None:
        clock = SystemClock()
        self._config = config
        self._engine = Engine(config, clock)
        self._system = System(config, self._engine, clock, lambda: self._membership.info())
        self._membership = Membership(
            config,
            task_engine(self._engine),
            lambda: remove_task_containers(self._engine),
            self._system.description,
            clock,
        )
        routes = [
            *system.routes(self._system),
            *container.routes(self._engine.containers),
            *exec_router.routes(self._engine.containers.execs),
            *image.routes(self._engine.images),
            *build.routes(self._engine.builder, self._engine.images),
            *network.routes(Networks(self._engine.networks, self._membership), self._engine.containers),
            *debug.routes(Debug(self._engine.networks, self._membership)),
            *volume.routes(self._engine.volumes),
            *plugin.routes(self._engine.plugins),
            *swarm.routes(self._membership),
            *node.routes(self._membership),
            *service.routes(self._membership),
            *task.routes(self._membership),
        ]
        self._app = App(routes, server_name=f"Shoal/{VERSION}", cors_headers=config.api_cors_header)
        self._open = contextlib.AsyncExitStack()

    async def start_up(self) -> None:
        """Restore everything, then serve. What was started is closed again on failure."""
        async with contextlib.AsyncExitStack() as stack:
            await self._engine.start_up()
            stack.push_async_callback(self._engine.close)
            await self._membership.start_up()
            stack.push_async_callback(self._membership.close)
            stack.push_async_callback(self._app.close)
            await listen(self._app, self._config)
            stack.callback(forget_sockets, self._config)
            self._open = stack.pop_all()

    def reload(self, read: Config) -> None:
        """Take over what can be changed without a restart; what can't is named in the log."""
        self._config, waiting = reloaded(self._config, read)
        logs.set_level(self._config.log_level)
        self._engine.reload(self._config)
        self._system.reload(self._config)
        log.info("configuration reloaded")
        if waiting:
            log.warning("settings that need a restart stay as they were settings=%s", ",".join(waiting))

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set."""
        await stop.wait()

    async def close(self) -> None:
        """Stop serving and let go; containers run on."""
        await self._open.aclose()
