"""Which networks a container is on: kept in its record, and done at once if it runs."""

from __future__ import annotations

import logging

import msgspec

from api.errors import Forbidden, NotFound
from api.types.endpoint import EndpointSettings
from worker.engine.containers.kit import Kit
from worker.engine.containers.listing import networks_of
from worker.engine.containers.start import Starter
from worker.engine.containers.store import Container

log = logging.getLogger(__name__)

SWARM_LABELS = "com.docker.swarm."
"""A task's networks are the managers' to say."""


class Membership:
    def __init__(self, kit: Kit, starter: Starter) -> None:
        self._kit = kit
        self._starter = starter

    async def connect(self, ref: str, network: str, settings: EndpointSettings | None) -> None:
        """Raises Forbidden for a container that shares another's network, or is on this one already."""
        container = self._kit.store.get(ref)
        wish = settings or EndpointSettings()
        async with container.lock:
            record = container.record
            if record.host_config.network_mode == "host" or record.host_config.network_mode.startswith("container:"):
                raise Forbidden("container sharing network namespace with another container or host cannot be "
                                "connected to any other network")  # fmt: skip
            if not container.running and network in networks_of(record, None):
                raise Forbidden(f"endpoint with name {record.name} already exists in network {network}")
            host = record.host_config
            if record.on_no_network:  # the first it joins again is its main one
                host = msgspec.structs.replace(host, network_mode=network)
            endpoints = {**record.endpoints, network: wish}
            after = msgspec.structs.replace(record, endpoints=endpoints, host_config=host, on_no_network=False)
            if container.running:
                await self._kit.networks.connect(record.id, network, wish)
            else:
                await self._kit.networks.check(self._starter.request(after, checking=True))
            await self._kit.store.save(container, endpoints=endpoints, host_config=host, on_no_network=False)

    async def disconnect(self, ref: str, network: str, *, force: bool) -> None:
        """Raises NotFound if it is not on that network."""
        container = self._kit.store.get(ref)
        async with container.lock:
            record = container.record
            if container.running:
                await self._kit.networks.disconnect(record.id, network, force=force)
            elif network not in networks_of(record, None):
                raise NotFound(f"container {record.id} is not connected to network {network}")
            await self._keep(container, {name for name in networks_of(record, None) if name != network})

    async def take_up(self, container: Container) -> None:
        """For a container that ran on while the daemon was away: a crash may have come after the network was done and
        before the record was."""
        record = container.record
        if record.host_config.network_mode in ("host", "none") or record.host_config.network_mode.startswith(
            "container:"
        ):
            return
        sandbox = await self._kit.networks.sandbox(record.id)
        if sandbox is None or any(label.startswith(SWARM_LABELS) for label in record.config.labels or {}):
            return
        if set(sandbox.endpoints) != set(networks_of(record, None)):
            log.info("networks taken from what runs container=%s", record.id[:12])
            await self._keep(container, set(sandbox.endpoints))

    async def _keep(self, container: Container, names: set[str]) -> None:
        """From now on the container is on these networks and no other."""
        record, host = container.record, container.record.host_config
        endpoints = {name: wish for name, wish in networks_of(record, None).items() if name in names}
        endpoints |= {name: EndpointSettings() for name in sorted(names - set(endpoints))}
        if names and ("bridge" if host.network_mode == "default" else host.network_mode) not in names:
            host = msgspec.structs.replace(host, network_mode=next(iter(endpoints)))
        await self._kit.store.save(container, endpoints=endpoints, host_config=host, on_no_network=not names)
