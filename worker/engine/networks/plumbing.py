"""The kernel's side of sandboxes: one netlink thread, the host's rule set, held ports, and the retiring of links.

`build` makes what a record names; `tear_down` takes it all away and is idempotent, so it also is the undo of a `build`
that failed half-way and the clean-up after a crash.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from pyroute2.netlink.exceptions import NetlinkError

from api.errors import Internal
from api.wire.ipam import parse_routes
from base import faultpoint
from base.offload import Pool
from worker.engine.networks import conntrack, links, macvlan, rules
from worker.engine.networks.flows import forget_udp
from worker.engine.networks.links import BridgePlan, EndpointPlan, Links
from worker.engine.networks.nft import Nft
from worker.engine.networks.ports import HostPorts, PortWish
from worker.engine.networks.records import EndpointRecord, NetworkRecord, PublishedPort, SandboxRecord
from worker.engine.networks.rules import BridgeRules
from worker.engine.syscalls import netns

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

LINK_GONE_S = 1.0
"""How long the kernel may take to drop the links of a namespace that nobody uses any more."""
_POLL_S = 0.01


class Plumbing:
    """Owns the threads and sockets that touch the kernel."""

    def __init__(
        self, table: str, wanted: Callable[[], tuple[Sequence[NetworkRecord], Sequence[PublishedPort]]]
    ) -> None:
        """`wanted`: the networks with a bridge, and all published ports, as they are to be now."""
        self.table = table
        self._wanted = wanted
        self.ports = HostPorts()
        self._pool = Pool("netlink", 1)
        self._nft = Nft()
        self._links: Links | None = None

    async def close(self) -> None:
        """Close what this process holds; links, namespaces and rules stay."""
        self.ports.close()
        if self._links is not None:
            await self._pool.run(self._links.close)
            self._links = None
        await asyncio.to_thread(self._pool.close)
        await self._nft.close()

    async def _run(self, function: Callable[Concatenate[Links, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run in the netlink thread, which owns the `Links`. Raises Internal with the kernel's words."""

        def work() -> R:
            if self._links is None:
                self._links = Links()
            try:
                return function(self._links, *args, **kwargs)
            except (OSError, NetlinkError) as error:
                raise Internal(f"failed to set up container networking: {error}") from error

        return await self._pool.run(work)

    # --- the host ---------------------------------------------------------------------------------------------

    async def routes(self) -> list[tuple[str, IPv4Network]]:
        """(interface, destination) of the host's routes."""
        return await self._pool.run(lambda: parse_routes(Path("/proc/thread-self/net/route").read_text()))

    async def link_exists(self, name: str) -> bool:
        return await self._pool.run(links.index_of, name) is not None

    async def ensure_network(self, record: NetworkRecord) -> None:
        """The host's link of a network, if that is ours. Idempotent. Raises Conflict when the name is another kind of
        link's."""
        if record.parent:
            if record.parent_made:
                await self._run(Links.ensure_parent, record.parent, macvlan.vlan(record.parent))
                faultpoint.reach("parent.made")
            return
        prefix = record.subnet.partition("/")[2]
        plan = BridgePlan(record.bridge, f"{record.gateway}/{prefix}", record.mtu, filtered=not record.icc)
        await self._run(Links.ensure_bridge, plan)
        faultpoint.reach("bridge.made")

    async def remove_network(self, record: NetworkRecord) -> None:
        """The host's link of a network, if that is ours; idempotent."""
        ours = record.parent if record.parent_made else record.bridge
        if ours:
            await self.remove_link(ours)

    async def remove_link(self, name: str) -> None:
        await self._run(Links.remove, name)

    async def forget_subnet(self, subnet: str) -> None:
        """Of a network that begins or ends: no flow of another one on the same addresses counts as established."""
        try:
            await self._pool.run(conntrack.forget_subnet, subnet)
        except OSError as error:  # no connection tracking, no flows
            log.warning("flows not forgotten subnet=%s error=%s", subnet, error)

    async def write_rules(self, *, without: Sequence[PublishedPort] = ()) -> None:
        """Replace the whole table by what is wanted, in one transaction."""
        networks, published = self._wanted()
        bridges = [
            BridgeRules(record.bridge, record.subnet, record.internal, record.icc, record.masquerade)
            for record in networks
        ]
        await self._nft.run(rules.whole_table(self.table, bridges, [port for port in published if port not in without]))

    async def restore_rules(self) -> None:
        """Write the table anew if somebody took it or one of its base chains away."""
        try:
            found = await self._nft.run(f"list table ip {self.table}")
        except Internal:
            found = ""
        if any(f"chain {name} {{" not in found for name in rules.CHAINS):
            log.warning("rules were taken away, written anew table=%s", self.table)
            await self.write_rules()

    # --- sandboxes --------------------------------------------------------------------------------------------

    def take_ports(self, wished: Iterable[PortWish], container_ip: str) -> tuple[PublishedPort, ...]:
        """Reserve all or none. Raises PortInUse."""
        taken: list[PublishedPort] = []
        try:
            for wish in wished:
                taken.append(
                    PublishedPort(
                        protocol=wish.protocol,
                        host_ip=wish.host_ip,
                        host_port=self.ports.take(wish),
                        container_ip=container_ip,
                        container_port=wish.container_port,
                    )
                )
        except BaseException:
            self.give_back(taken)
            raise
        return tuple(taken)

    def give_back(self, published: Iterable[PublishedPort]) -> None:
        for port in published:
            self.ports.give_back(port.protocol, port.host_ip, port.host_port)

    async def make_namespace(self, path: Path) -> int:
        """A new one with loopback up; answers its inode. On failure nothing is left."""
        return await self._pool.run(_make, path)

    async def build(self, record: SandboxRecord, plans: Sequence[EndpointPlan]) -> None:
        """Links and published ports. On failure some of it may be left: the caller tears down."""
        for plan in plans:
            await self.join(record, plan)
        await self.publish(record.published)

    async def publish(self, published: Sequence[PublishedPort]) -> None:
        """Ports that are among the wanted ones already."""
        await self._change(rules.publish(self.table, published))
        await self._forget_flows(published)
        faultpoint.reach("ports.published")

    async def unpublish(self, published: Sequence[PublishedPort]) -> None:
        """Rules first, then the sockets: never is a port free that still leads somewhere. Idempotent."""
        try:
            await self._change(rules.unpublish(self.table, published), without=published)
            await self._forget_flows(published)
        finally:
            self.give_back(published)

    async def _forget_flows(self, published: Sequence[PublishedPort]) -> None:
        ports = {port.host_port for port in published if port.protocol == "udp"}
        if ports:
            await self._pool.run(forget_udp, ports)

    async def _change(self, commands: str, *, without: Sequence[PublishedPort] = ()) -> None:
        """Add or delete elements; a table that somebody flushed (restart of a firewall service) is written anew."""
        try:
            await self._nft.run(commands)
        except Internal as error:
            log.warning("rules are not as we left them, written anew table=%s error=%s", self.table, error)
            await self.write_rules(without=without)

    async def join(self, record: SandboxRecord, plan: EndpointPlan) -> None:
        """One more endpoint for a running sandbox; on failure no link is left."""
        await self._run(Links.add_endpoint, plan, Path(record.netns))
        faultpoint.reach("link.made")

    async def remove_endpoint(self, record: SandboxRecord, made: EndpointRecord) -> None:
        """The links of one endpoint of a running sandbox; idempotent."""
        if made.parent:
            await self._pool.run(links.remove_inside, Path(record.netns), made.interface)
        else:
            await self.remove_link(made.link)

    async def endpoint_exists(self, record: SandboxRecord, made: EndpointRecord) -> bool:
        """Whether a running sandbox has the link of an endpoint. One of an overlay is not looked for."""
        if made.overlay or not (made.link or made.parent):
            return True
        if made.link:
            return await self.link_exists(made.link)
        return await self._pool.run(_has_link, Path(record.netns), made.interface)

    async def leave(self, record: SandboxRecord, made: EndpointRecord, gateway: str) -> None:
        """Take an endpoint's link away and point the default route at what is left."""
        await self.remove_endpoint(record, made)
        faultpoint.reach("link.removed")
        await self._pool.run(links.set_default_route, Path(record.netns), gateway)

    async def tear_down(self, record: SandboxRecord) -> None:
        """Ports and namespace. Links go with the namespace, soon after: see `links_gone`."""
        await self.unpublish(record.published)
        if record.owned and record.netns:
            names = [made.interface for made in record.endpoints if made.parent]
            await self._pool.run(_remove_namespace, Path(record.netns), names)
            faultpoint.reach("netns.removed")

    async def links_gone(self, record: SandboxRecord) -> None:
        """Wait until the kernel has dropped the links (its own worker does it in batches, off everybody's way);
        after LINK_GONE_S (somebody still holds the namespace) remove them by hand."""
        names = [made.link for made in record.endpoints if made.link and not made.overlay]
        deadline = time.monotonic() + LINK_GONE_S
        while names and time.monotonic() < deadline:
            names = [name for name in names if await self.link_exists(name)]
            if names:
                await asyncio.sleep(_POLL_S)
        for name in names:
            await self.remove_link(name)

    async def namespace_of(self, record: SandboxRecord) -> bool:
        """Whether a running container's namespace is under its path; found again by its inode when the mount is
        not visible here (it was made in a mount namespace that went with the last daemon)."""
        return await self._pool.run(_find_again, Path(record.netns), record.netns_inode)

    async def sweep(self, directory: Path, known: set[str]) -> None:
        """Remove namespace files that no record names."""
        await self._pool.run(_sweep, directory, known)


def _make(path: Path) -> int:
    links.make_sandbox(path)
    faultpoint.reach("netns.made")
    return netns.identity(path)


def _remove_namespace(path: Path, interfaces: Sequence[str]) -> None:
    """Its macvlan links first: with the namespace they go only soon after, and until then nobody else can have their
    hardware addresses on that parent."""
    for name in interfaces if netns.is_namespace(path) else ():
        links.remove_inside(path, name)
    netns.remove(path)


def _has_link(path: Path, name: str) -> bool:
    return netns.is_namespace(path) and netns.call(path, lambda: links.index_of(name)) is not None


def _find_again(path: Path, inode: int) -> bool:
    if netns.is_namespace(path):
        return True
    pid = netns.find_process(inode)
    if pid is None:
        return False
    netns.keep(pid, path)
    log.info("network namespace kept again path=%s pid=%d", path, pid)
    return True


def _sweep(directory: Path, known: set[str]) -> None:
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        if str(path) not in known:
            log.info("network namespace of no record removed path=%s", path)
            netns.remove(path)
