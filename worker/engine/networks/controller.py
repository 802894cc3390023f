"""The facade of networking: satisfies `parts.Networks` and backs the /networks endpoints.

Order of an attach: addresses and ports are reserved in memory, the namespace is made, the record is written, links and
rules are made, files are written. A crash anywhere leaves a record or an unnamed namespace file; both are cleaned by
`reconcile`. An address is free for others only once its old link is gone from the bridge.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from api.errors import Conflict, Internal, ShoalError
from api.types.dataplane import OverlayChange
from api.types.endpoint import EndpointSettings
from api.types.network import Network, NetworkCreate, NetworkCreated
from base.clock import Clock, SystemClock
from base.ids import hex_id
from base.locks import KeyedLocks
from base.supervise import TaskOwner
from worker.engine.networks import macvlan, planning
from worker.engine.networks import records as r
from worker.engine.networks.book import SandboxBook
from worker.engine.networks.catalog import PREDEFINED, Catalog, matcher, shown
from worker.engine.networks.config import NetworkConfig
from worker.engine.networks.dataplane import DataPlane
from worker.engine.networks.dnsserver import DnsServer, DnsServers
from worker.engine.networks.live import FAILED, LiveEndpoints
from worker.engine.networks.mesh import Mesh
from worker.engine.networks.overlays import Overlays, Report
from worker.engine.networks.plumbing import Plumbing
from worker.engine.networks.ports import PortInUse, wishes
from worker.engine.networks.predefined import Predefined
from worker.engine.networks.records import NetworkRecord, PublishedPort, SandboxRecord
from worker.engine.networks.rendering import upstreams, write_files
from worker.engine.networks.rules import table_name
from worker.engine.parts import Events, NetworkRequest, Sandbox
from worker.engine.records import Delete, Put, Records

log = logging.getLogger(__name__)


class NetworkController:
    """One per daemon. `start_up` before use; `close` leaves containers' networking as it is."""

    def __init__(
        self,
        records: Records,
        exec_root: Path,
        data_root: Path,
        events: Events,
        config: NetworkConfig | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._records = records
        self._namespaces = exec_root / "netns"
        self._events = events
        self._config = config or NetworkConfig()
        self._clock = clock or SystemClock()
        self._catalog = Catalog()
        self._book = SandboxBook(self._catalog)
        self._retiring: dict[str, asyncio.Task[None]] = {}
        """By sandbox id: links that go away."""
        self._plumbing = Plumbing(table_name(str(data_root)), self._wanted)
        self.overlays = Overlays(records, exec_root / "overlay", self._catalog, self._book.all)
        self.mesh = Mesh(
            self._plumbing.table,
            self.overlays.state,
            self._book.by_container,
            self._plumbing.ports,
            self.attach,
            self.detach,
            data_root / "gate",
        )
        self._data_plane = DataPlane(self.overlays, self.mesh, self._plumbing.restore_rules)
        self._resolvers = DnsServers()
        self._owner = TaskOwner("networks")
        self._turns = KeyedLocks()
        """By container id: what is done to one container's place is done in turn. Taken before `_changes`."""
        self._changes = asyncio.Lock()
        """One change of the set of networks, or of a running container's endpoints, at a time."""
        self._predefined = Predefined(records, self._catalog, self._book, self._plumbing, self._config, self._clock)
        self._live = LiveEndpoints(
            records,
            self._catalog,
            self._book,
            self._plumbing,
            self.overlays,
            self._config,
            self._turns,
            self._changes,
            self._serve_names,
            self._tell,
        )

    # --- life -------------------------------------------------------------------------------------------------

    async def start_up(self) -> None:
        """Read the records, make what is predefined, put bridges and rules right. Running containers stay reachable;
        `reconcile` must follow."""
        self._config.validate()
        for record in (await self._records.all(r.NETWORKS, NetworkRecord)).values():
            self._catalog.add(record)
        await self.overlays.start_up()
        for sandbox in await self._present(list((await self._records.all(r.SANDBOXES, SandboxRecord)).values())):
            self._adopt(sandbox)
        await self._predefined.make()
        for record in self._catalog.with_links():
            try:
                await self._plumbing.ensure_network(record)
            except ShoalError as error:
                if record.predefined:
                    raise
                log.error("link could not be restored network=%s error=%s", record.name, error)
        await self._plumbing.write_rules()

    async def _present(self, found: Sequence[SandboxRecord]) -> list[SandboxRecord]:
        """One for each container. A crash may leave two: that of a run that had ended, its namespace gone, but not yet
        its record; and that of the next run."""
        kept: dict[str, SandboxRecord] = {}
        for record in found:
            other = kept.get(record.container_id)
            past = record if other is not None and await self._plumbing.namespace_of(other) else other
            if past is not record:
                kept[record.container_id] = record
            if past is not None:
                log.info("sandbox of a past run removed container=%s", record.container_id[:12])
                await self._plumbing.links_gone(past)
                await self._records.write(Delete(r.SANDBOXES, past.id))
        return list(kept.values())

    def _adopt(self, sandbox: SandboxRecord) -> None:
        self._book.take_up(sandbox)
        for port in sandbox.published:
            if not self._plumbing.ports.hold_again(port.protocol, port.host_ip, port.host_port):
                log.warning("published port is also used by another program port=%s", port.host_port)

    async def _save(self, record: NetworkRecord) -> None:
        await self._records.write(Put(r.NETWORKS, record.id, record))
        self._catalog.add(record)

    def _wanted(self) -> tuple[Sequence[NetworkRecord], Sequence[PublishedPort]]:
        """What the rule set must say."""
        return self._catalog.bridges(), [port for box in self._book.all() for port in box.published]

    async def close(self) -> None:
        """Containers keep their networking; ports are reserved again at the next start."""
        if self._retiring:
            await asyncio.wait(list(self._retiring.values()))
        await self._resolvers.close()
        await self._owner.close()
        await self._data_plane.close()
        await self.mesh.close()
        await self.overlays.close()
        await self._plumbing.close()

    # --- overlays ---------------------------------------------------------------------------------------------

    async def apply(self, change: OverlayChange) -> bool:
        """What the managers say of overlay networks. Answers whether the kernel has all of it."""
        return await self._data_plane.apply(change)

    async def check_data_plane(self) -> Report:
        """Compare the kernel with what the managers say, and repair it."""
        return await self._data_plane.check()

    async def _gateway_bridge(self, networks: Sequence[NetworkRecord]) -> None:
        """Containers on overlays reach the world by a bridge of this host, made with the first of them."""
        needed = any(record.is_overlay and not record.internal for record in networks)
        if needed and self._catalog.named(r.GATEWAY_NETWORK) is None:
            with contextlib.suppress(Conflict):  # another container was quicker
                await self.create(
                    NetworkCreate(name=r.GATEWAY_NETWORK, check_duplicate=True, options={r.OPTION_ICC: "false"})
                )

    # --- parts.Networks ---------------------------------------------------------------------------------------

    async def check(self, request: NetworkRequest) -> None:
        """See `parts.Networks.check`."""
        planning.check(request, self._catalog, self._config.ip)

    async def attach(self, request: NetworkRequest) -> Sandbox:
        """See `parts.Networks.attach`."""
        async with self._turns.of(request.container_id):
            await self._detach(request.container_id)
            return await self._attach(request)

    async def _attach(self, request: NetworkRequest) -> Sandbox:
        networks = planning.check(request, self._catalog, self._config.ip)
        await self._gateway_bridge(networks)
        networks = planning.check(request, self._catalog, self._config.ip)
        record = await self._plan(request, networks)
        try:
            self.overlays.check_place(record)
            record = self._with_ports(record, request)
            if record.owned:
                inode = await self._plumbing.make_namespace(Path(record.netns))
                record = replace(record, netns_inode=inode)
            await self._records.write(Put(r.SANDBOXES, record.id, record))
            self._book.remember(record)
            await self.overlays.join(record)
            await self._plumbing.build(record, planning.plans(record, self._catalog, self.overlays.directory))
            await self.overlays.settle(record)
            await self._settle(record)
        except BaseException as error:
            await self._undo(record)
            if isinstance(error, OSError):
                raise Internal(f"{FAILED}: {error}") from error
            raise
        self._mesh_follows(record)
        for made in record.endpoints:
            self._tell("connect", self._catalog.networks[made.network_id], request.container_id)
        return planning.view(record)

    def _mesh_follows(self, record: SandboxRecord) -> None:
        """The mesh leads to containers of this host as long as they are there."""
        if record.container_id != r.GATE and any(made.network_name == r.GATEWAY_NETWORK for made in record.endpoints):
            self._owner.spawn(self.mesh.refresh(), name="mesh")

    async def _plan(self, request: NetworkRequest, networks: Sequence[NetworkRecord]) -> SandboxRecord:
        """Allocate; an address whose last owner is just leaving is waited for."""
        files_of = ""
        if request.mode.startswith("container:"):
            other = self._book.find(request.mode.partition(":")[2])
            files_of = (other.files_of or other.directory) if other else ""
        try:
            return planning.sandbox(request, networks, self._catalog, self._namespaces, files_of)
        except Conflict:
            if not self._retiring:
                raise
            await asyncio.wait(list(self._retiring.values()))
            return planning.sandbox(request, networks, self._catalog, self._namespaces, files_of)

    def _with_ports(self, record: SandboxRecord, request: NetworkRequest) -> SandboxRecord:
        """Reserve the ports of the host. Raises PortInUse with Docker's words around it."""
        first = planning.publishing_endpoint(record.endpoints)
        if first is None:
            return record
        default_ip = self._catalog.networks[first.network_id].option(r.OPTION_HOST_BINDING, self._config.ip)
        wished = wishes(request.ports, request.exposed, request.publish_all, default_ip)
        try:
            return replace(record, published=self._plumbing.take_ports(wished, first.address))
        except PortInUse as error:
            raise PortInUse(
                f"driver failed programming external connectivity on endpoint {record.container_name} "
                f"({first.id}): {error.message}"
            ) from None

    async def _settle(self, record: SandboxRecord) -> None:
        """What a sandbox needs besides links: files, and its DNS server."""
        write_files(record, self._config, self._book.names)
        if record.embedded_dns:
            await self._serve_names(record)

    async def _serve_names(self, record: SandboxRecord) -> None:
        container_id = record.container_id

        def lookup(name: str) -> list[str] | None:
            now = self._book.get(container_id)
            if now is None:
                return None
            # Of services' names the managers' word counts; a task that is just starting is known here first.
            found = self.overlays.lookup(now, name)
            return found or self._book.names.lookup(now, name) or found

        def reverse(address: str) -> str | None:
            now = self._book.get(container_id)
            return (self.overlays.reverse(now, address) or self._book.names.reverse(now, address)) if now else None

        def servers() -> Sequence[str]:
            now = self._book.get(container_id)
            outward = now is not None and planning.gateway_endpoint(now.endpoints) is not None
            return upstreams(now, self._config) if now and outward else ()

        await self._resolvers.start(record.id, Path(record.netns), DnsServer(lookup, reverse, servers))

    async def _undo(self, record: SandboxRecord) -> None:
        """After an attach that failed: nothing of it stays when this returns."""
        self._book.forget(record)
        await self._resolvers.stop(record.id)
        try:
            await self._plumbing.tear_down(record)
        finally:
            await self._retire(record)
            await self.overlays.leave(record)

    async def _retire(self, record: SandboxRecord) -> None:
        await self._plumbing.links_gone(record)
        planning.release(record.endpoints, self._catalog)
        await self._records.write(Delete(r.SANDBOXES, record.id))

    async def detach(self, container_id: str) -> None:
        """See `parts.Networks.detach`. Ports and namespace are gone on return; the kernel drops the links right after,
        and only then are addresses and record given up."""
        async with self._turns.of(container_id):
            await self._detach(container_id)

    async def _detach(self, container_id: str) -> None:
        record = self._book.get(container_id)
        if record is None:
            return
        self._book.forget(record)
        await self._resolvers.stop(record.id)
        await self._plumbing.tear_down(record)
        await self.overlays.leave(record)
        task = self._owner.spawn(self._retire(record), name=f"retire-{record.id[:12]}")
        self._retiring[record.id] = task
        task.add_done_callback(lambda _: self._retiring.pop(record.id, None))
        self._mesh_follows(record)
        for made in record.endpoints:
            if made.network_id in self._catalog.networks:
                self._tell("disconnect", self._catalog.networks[made.network_id], container_id)

    async def sandbox(self, container_id: str) -> Sandbox | None:
        """See `parts.Networks.sandbox`."""
        record = self._book.get(container_id)
        return planning.view(record) if record else None

    async def reconcile(self, running: Sequence[str]) -> None:
        """See `parts.Networks.reconcile`."""
        alive = set(running)
        for record in list(self._book.all()):
            if record.container_id == r.GATE:
                if not await self._plumbing.namespace_of(record):
                    self._book.forget(record)
                    await self._plumbing.tear_down(record)
                    await self._retire(record)
            elif record.container_id not in alive:
                self._book.forget(record)
                await self._plumbing.tear_down(record)
                await self._retire(record)
            elif record.owned:
                await self._take_up_again(record)
        known = {record.netns for record in self._book.all() if record.owned}
        await self._plumbing.sweep(self._namespaces, known)
        await self._plumbing.write_rules()
        await self.overlays.take_up()
        await self.mesh.refresh()
        self._data_plane.start()

    async def _take_up_again(self, record: SandboxRecord) -> None:
        """A sandbox whose container ran on while no daemon was there: its DNS server went, the rest is untouched. An
        endpoint without its link is one that was being made or taken away, and nobody was told: it goes."""
        there = [made for made in record.endpoints if await self._plumbing.endpoint_exists(record, made)]
        if len(there) < len(record.endpoints):
            lost = [made for made in record.endpoints if made not in there]
            log.info("half-made endpoints removed container=%s", record.container_id[:12])
            addresses = {made.address for made in lost}
            ports = tuple(port for port in record.published if port.container_ip in addresses)
            kept = tuple(port for port in record.published if port not in ports)
            record = replace(record, endpoints=tuple(there), published=kept)
            await self._records.write(Put(r.SANDBOXES, record.id, record))
            self._book.remember(record)
            await self._plumbing.unpublish(ports)
            planning.release(lost, self._catalog)
        if not await self._plumbing.namespace_of(record):
            log.warning("network namespace of a running container is lost container=%s", record.container_id)
        elif record.embedded_dns:
            await self._serve_names(record)

    async def connect(self, container_id: str, network: str, settings: EndpointSettings) -> EndpointSettings:
        """See `parts.Networks.connect`."""
        return await self._live.connect(container_id, network, settings)

    async def disconnect(self, container_id: str, network: str, *, force: bool = False) -> None:
        """See `parts.Networks.disconnect`."""
        await self._live.disconnect(container_id, network, force=force)

    # --- the API ----------------------------------------------------------------------------------------------

    async def create(self, body: NetworkCreate) -> NetworkCreated:
        """`POST /networks/create`."""
        async with self._changes:
            present = [
                each for each in macvlan.candidates(body.options or {}) if await self._plumbing.link_exists(each)
            ]
            record = self._catalog.plan(
                body, hex_id(), self._clock.now_ns(), self._config.pools, await self._plumbing.routes(), present
            )
            if record.bridge and await self._plumbing.link_exists(record.bridge):
                raise Conflict(f"bridge name {record.bridge} is already used by a link of the host")
            await self._save(record)
            try:
                await self._plumbing.ensure_network(record)
                await self._plumbing.write_rules()
                await self._plumbing.forget_subnet(record.subnet)
            except BaseException:
                await self._take_away(record)
                raise
        self._tell("create", record, "")
        return NetworkCreated(id=record.id)

    async def _take_away(self, record: NetworkRecord) -> None:
        self._catalog.drop(record.id)
        await self._plumbing.write_rules()
        await self._plumbing.remove_network(record)
        await self._plumbing.forget_subnet(record.subnet)
        await self._records.write(Delete(r.NETWORKS, record.id))

    async def remove(self, ref: str) -> None:
        """`DELETE /networks/{id}`. Raises NotFound, Forbidden (predefined, or in use)."""
        async with self._changes:
            record = self._catalog.resolve(ref)
            if self._in_use(record) and self._retiring:
                await asyncio.wait(list(self._retiring.values()))
            self._catalog.check_removal(record, in_use=self._in_use(record))
            await self._take_away(record)
        self._tell("destroy", record, "")

    def _in_use(self, record: NetworkRecord) -> bool:
        return record.id in self._catalog.subnets and bool(self._catalog.subnets[record.id].used)

    def inspect(self, ref: str) -> Network:
        """`GET /networks/{id}`. Raises NotFound."""
        return shown(self._catalog.resolve(ref), self._book.all())

    def list(self, filters: Mapping[str, Sequence[str]]) -> list[Network]:
        """`GET /networks`, predefined ones first."""
        used = {made.network_id for sandbox in self._book.all() for made in sandbox.endpoints}
        wanted: Callable[[NetworkRecord], bool] = matcher(filters, lambda record: record.id in used)
        order = sorted(self._catalog.networks.values(), key=lambda one: (one.name not in PREDEFINED, one.name))
        return [shown(record, self._book.all()) for record in order if wanted(record)]

    def _tell(self, action: str, network: NetworkRecord, container_id: str) -> None:
        attributes = {"name": network.name, "type": network.driver}
        if container_id:
            attributes["container"] = container_id
        self._events.publish("network", action, network.id, attributes)
