"""The networks every daemon has: host, none, and the default bridge with the subnet it keeps while it is in use."""

from __future__ import annotations

from ipaddress import IPv4Interface

from api.wire.ipam import choose_subnet
from base.clock import Clock
from base.ids import hex_id
from worker.engine.networks import records as r
from worker.engine.networks.book import SandboxBook
from worker.engine.networks.catalog import Catalog
from worker.engine.networks.config import NetworkConfig
from worker.engine.networks.plumbing import Plumbing
from worker.engine.networks.records import NetworkRecord
from worker.engine.records import Put, Records


class Predefined:
    """Makes their records; links are made with those of all networks."""

    def __init__(
        self,
        records: Records,
        catalog: Catalog,
        book: SandboxBook,
        plumbing: Plumbing,
        config: NetworkConfig,
        clock: Clock,
    ) -> None:
        self._records = records
        self._catalog = catalog
        self._book = book
        self._plumbing = plumbing
        self._config = config
        self._clock = clock

    async def make(self) -> None:
        """Those that are missing; the default bridge anew if it no longer fits."""
        for name, driver in (("host", "host"), ("none", "null")):
            if self._catalog.named(name) is None:
                await self._save(NetworkRecord(id=hex_id(), name=name, driver=driver, created_ns=self._clock.now_ns()))
        known = self._catalog.named("bridge")
        if known is None or not await self._still_fits(known):
            await self._save(await self._default_bridge(known))

    async def _still_fits(self, known: NetworkRecord) -> bool:
        """The default bridge keeps its subnet while containers use it; else it yields to the host's other routes and
        to changed configuration."""
        if any(made.network_id == known.id for sandbox in self._book.all() for made in sandbox.endpoints):
            return True
        config = self._config
        if known.bridge != config.bridge or known.mtu != config.mtu:
            return False
        if (known.icc, known.masquerade) != (config.icc, config.ip_masq):
            return False
        if config.bip:
            return f"{known.gateway}/{known.subnet.partition('/')[2]}" == config.bip
        mine = self._catalog.subnets[known.id].network
        return not any(
            mine.overlaps(network) for link, network in await self._plumbing.routes() if link != known.bridge
        )

    async def _default_bridge(self, known: NetworkRecord | None) -> NetworkRecord:
        config = self._config
        if known is not None:
            self._catalog.drop(known.id)
            await self._plumbing.remove_link(known.bridge)
        if config.bip:
            interface = IPv4Interface(config.bip)
            subnet, gateway = interface.network, interface.ip
        else:
            subnet = choose_subnet(config.pools, self._catalog.taken(await self._plumbing.routes()))
            gateway = subnet[1]
        return NetworkRecord(
            id=known.id if known else hex_id(),
            name="bridge",
            driver="bridge",
            created_ns=known.created_ns if known else self._clock.now_ns(),
            subnet=str(subnet),
            gateway=str(gateway),
            bridge=config.bridge,
            options={
                r.OPTION_DEFAULT: "true",
                r.OPTION_ICC: str(config.icc).lower(),
                r.OPTION_MASQUERADE: str(config.ip_masq).lower(),
                r.OPTION_HOST_BINDING: config.ip,
                r.OPTION_NAME: config.bridge,
                r.OPTION_MTU: str(config.mtu),
            },
        )

    async def _save(self, record: NetworkRecord) -> None:
        await self._records.write(Put(r.NETWORKS, record.id, record))
        self._catalog.add(record)
