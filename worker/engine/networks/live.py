"""Endpoints of containers that run: networks joined and left meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from api.errors import Forbidden, Internal, NotFound
from api.types.endpoint import EndpointSettings
from base.locks import KeyedLocks
from worker.engine.networks import planning
from worker.engine.networks import records as r
from worker.engine.networks.book import SandboxBook
from worker.engine.networks.catalog import Catalog
from worker.engine.networks.config import NetworkConfig
from worker.engine.networks.links import EndpointPlan
from worker.engine.networks.overlays import Overlays
from worker.engine.networks.plumbing import Plumbing
from worker.engine.networks.records import EndpointRecord, NetworkRecord, SandboxRecord
from worker.engine.networks.rendering import write_files, write_hosts
from worker.engine.records import Put, Records

FAILED = "failed to set up container networking"


class LiveEndpoints:
    """Connects and disconnects, under the controller's locks."""

    def __init__(
        self,
        records: Records,
        catalog: Catalog,
        book: SandboxBook,
        plumbing: Plumbing,
        overlays: Overlays,
        config: NetworkConfig,
        turns: KeyedLocks,
        changes: asyncio.Lock,
        serve_names: Callable[[SandboxRecord], Awaitable[None]],
        tell: Callable[[str, NetworkRecord, str], None],
    ) -> None:
        """
        Args:
            serve_names: starts the DNS server of a sandbox that had none.
            tell: publishes an event: action, network, container id.
        """
        self._records = records
        self._catalog = catalog
        self._book = book
        self._plumbing = plumbing
        self._overlays = overlays
        self._config = config
        self._turns = turns
        self._changes = changes
        self._serve_names = serve_names
        self._tell = tell

    async def connect(self, container_id: str, network: str, settings: EndpointSettings) -> EndpointSettings:
        """See `parts.Networks.connect`."""
        async with self._turns.of(container_id), self._changes:
            record = self._book.running(container_id)
            joined = self._catalog.resolve(network)
            planning.refuse_shared(record)
            if joined.is_overlay:
                raise planning.not_attachable(joined)
            if not joined.joinable:
                raise Forbidden(f"container cannot be connected to network {joined.name}")
            if any(made.network_id == joined.id for made in record.endpoints):
                raise Forbidden(f"endpoint with name {record.container_name} already exists in network {joined.name}")
            made = planning.endpoint(
                joined,
                settings,
                self._catalog,
                container_id=container_id,
                container_name=record.container_name,
                hostname=record.hostname,
                interface=planning.next_interface(record),
            )
            changed = replace(record, endpoints=(*record.endpoints, made))
            changed = replace(changed, embedded_dns=planning.needs_dns(changed.endpoints, self._catalog))
            try:
                await self._records.write(Put(r.SANDBOXES, record.id, changed))
                await self._plumbing.join(changed, self._one_plan(changed, made))
                self._book.remember(changed)
                write_files(changed, self._config, self._book.names)
                if changed.embedded_dns and not record.embedded_dns:
                    await self._serve_names(changed)
            except BaseException as error:
                self._book.remember(record)
                await self._plumbing.remove_endpoint(record, made)
                planning.release([made], self._catalog)
                await self._records.write(Put(r.SANDBOXES, record.id, record))
                if isinstance(error, OSError):
                    raise Internal(f"{FAILED}: {error}") from error
                raise
        self._tell("connect", joined, container_id)
        return planning.endpoint_view(made)

    def _one_plan(self, record: SandboxRecord, made: EndpointRecord) -> EndpointPlan:
        plans = planning.plans(record, self._catalog, self._overlays.directory)
        return next(plan for plan in plans if plan.interface == made.interface)

    async def disconnect(self, container_id: str, network: str, *, force: bool = False) -> None:
        """See `parts.Networks.disconnect`. Ports published by the endpoint go with it. `force` changes nothing here:
        the endpoint is removed whatever the container does."""
        async with self._turns.of(container_id), self._changes:
            record = self._book.running(container_id)
            left = self._catalog.resolve(network)
            made = next((made for made in record.endpoints if made.network_id == left.id), None)
            if made is None:
                raise NotFound(f"container {container_id} is not connected to network {left.name}")
            planning.refuse_shared(record)
            lost = tuple(port for port in record.published if port.container_ip == made.address)
            changed = replace(
                record,
                endpoints=tuple(other for other in record.endpoints if other is not made),
                published=tuple(port for port in record.published if port not in lost),
            )
            first = planning.gateway_endpoint(changed.endpoints)
            await self._plumbing.unpublish(lost)
            await self._plumbing.leave(record, made, first.gateway if first else "")
            await self._records.write(Put(r.SANDBOXES, record.id, changed))
            self._book.remember(changed)
            planning.release([made], self._catalog)
            write_hosts(changed, self._config, self._book.names)
        self._tell("disconnect", left, container_id)
