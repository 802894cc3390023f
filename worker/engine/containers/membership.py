"""Which networks a container is on: kept in its record, and done at once if it runs."""

from __future__ import annotations

import msgspec

from api.errors import Forbidden, NotFound
from api.types.endpoint import EndpointSettings
from worker.engine.containers.kit import Kit
from worker.engine.containers.listing import networks_of
from worker.engine.containers.start import Starter


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
            rest = {name: wish for name, wish in record.endpoints.items() if name != network}
            host = record.host_config
            is_main = network == ("bridge" if host.network_mode == "default" else host.network_mode)
            if is_main and rest:
                host = msgspec.structs.replace(host, network_mode=next(iter(rest)))
            on_none = is_main and not rest
            await self._kit.store.save(container, endpoints=rest, host_config=host, on_no_network=on_none)
