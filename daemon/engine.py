"""The engine's parts, made and joined: records, events, images, networks, volumes, plugins, runtime, containers.

Start order is the order of trust: records first, then what containers stand on, containers last. Stop order is the
reverse, and leaves containers running.
"""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Network
from pathlib import Path

from api.errors import NotFound
from api.types.container import LogConfig
from api.wire.ipam import AddressPools
from base.clock import Clock
from daemon import VERSION
from daemon.config import Config
from worker.engine.builder.builder import Builder
from worker.engine.containers.engine import Containers
from worker.engine.events.bus import EventBus
from worker.engine.images.builtin import ensure_busybox
from worker.engine.images.registry import RegistryConfig
from worker.engine.images.service import ImageService
from worker.engine.images.store import ImageStore
from worker.engine.networks.config import NetworkConfig
from worker.engine.networks.controller import NetworkController
from worker.engine.plugins.engine import Plugins
from worker.engine.records import Records
from worker.engine.runtime.runtime import MonitorRuntime
from worker.engine.volumes.plugins import Finder
from worker.engine.volumes.store import VolumeStore

BUSYBOX = Path("/bin/busybox")
"""Debian's busybox-static; the built-in image is made from it when it is there."""


class Engine:
    """One per daemon."""

    def __init__(self, config: Config, clock: Clock) -> None:
        data, run = config.data_root, config.exec_root
        self.records = Records(data / "engine.db")
        self.events = EventBus(clock)
        # Lists, because a reload changes them for everybody who was given this.
        self._mirrors, self._insecure = list(config.registry_mirrors), list(config.insecure_registries)
        self.registry = RegistryConfig(mirrors=self._mirrors, insecure=self._insecure)
        self.store = ImageStore(self.records, data, self.events, clock)
        self.images = ImageService(self.store, self.registry)
        self.networks = NetworkController(self.records, run, data, self.events, _networking(config), clock)
        self.plugins = Plugins(data, run, self.registry, self.events, clock, config.runtime)
        self.volumes = VolumeStore(self.records, data, self.events, clock, Finder(managed=self.plugins))
        self.plugins.used_by = self.volumes.of_driver
        self.runtime = MonitorRuntime(run, binary=config.runtime, clock=clock)
        self.containers = Containers(
            records=self.records,
            runtime=self.runtime,
            images=self.store,
            networks=self.networks,
            volumes=self.volumes,
            events=self.events,
            data_root=data,
            exec_root=run,
            clock=clock,
            log_default=LogConfig(type=config.log_driver, config=config.log_opts),
        )
        self.builder = Builder(self.images, self.containers, self.events, data, clock, VERSION)
        # Images and containers know of each other: the one direction is a call, the other this question.
        self.store.container_running = self._is_running
        self._open = contextlib.AsyncExitStack()

    def _is_running(self, container_id: str) -> bool:
        try:
            return self.containers.get(container_id).running
        except NotFound:
            return False

    def reload(self, config: Config) -> None:
        """Reach registries as `config` says, from the next request on."""
        self._mirrors[:], self._insecure[:] = config.registry_mirrors, config.insecure_registries

    async def start_up(self) -> None:
        """Restore everything; containers that ran are adopted. What was started is closed again on failure."""
        async with contextlib.AsyncExitStack() as stack:
            await self.records.open()
            stack.push_async_callback(self.records.close)
            await self.store.start_up()
            stack.push_async_callback(self.store.close)
            await self.networks.start_up()
            stack.push_async_callback(self.networks.close)
            await self.volumes.start_up()
            stack.push_async_callback(self.volumes.close)
            # Before the containers: what these have mounted may be a plugin's.
            stack.push_async_callback(self.plugins.close)
            await self.plugins.start_up()
            await self.runtime.open()
            stack.push_async_callback(self.runtime.close)
            await self.containers.start_up()
            stack.push_async_callback(self.containers.close)
            await self.builder.start_up()
            if BUSYBOX.exists():
                await ensure_busybox(self.store, BUSYBOX)
            self._open = stack.pop_all()

    async def close(self) -> None:
        """Let go of everything; containers run on."""
        await self._open.aclose()


def _networking(config: Config) -> NetworkConfig:
    pools = AddressPools()
    if config.default_address_pools:
        pools = AddressPools(tuple((IPv4Network(pool.base), pool.size) for pool in config.default_address_pools))
    return NetworkConfig(bridge=config.bridge, bip=config.bip, pools=pools, mtu=config.mtu, dns=config.dns)
