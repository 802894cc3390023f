"""GET /containers/json: a view of every container that passes the filters, newest first. Takes no lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from api.errors import InvalidArgument, NotFound
from api.types.container import ContainerSummary, MountPoint, Port, SummaryHostConfig, SummaryNetworks
from api.types.endpoint import EndpointSettings, PortBinding
from base.clock import NS
from worker.engine.containers import filters as rules
from worker.engine.containers.config import command_line
from worker.engine.containers.hostconfig import exposed_and_bound
from worker.engine.containers.kit import Kit
from worker.engine.containers.records import ContainerRecord, MountRecord
from worker.engine.containers.sizes import Sizes
from worker.engine.containers.store import Container
from worker.engine.containers.words import status_text
from worker.engine.parts import Sandbox


class Lister:
    def __init__(self, kit: Kit, sizes: Sizes) -> None:
        self._kit = kit
        self._sizes = sizes

    async def list(
        self,
        *,
        all_states: bool,
        limit: int,
        size: bool,
        filters: Mapping[str, Sequence[str]],
        since: str = "",
        before: str = "",
    ) -> list[ContainerSummary]:
        """Args:
        limit: at most so many, of all states; 0 or less is no limit.
        since, before: references of containers; only those created after / before it, of all states.
        """
        rules.check_filters(filters)
        newer_than = self._created([*filters.get("since", ()), *([since] if since else [])], newest=True)
        older_than = self._created([*filters.get("before", ()), *([before] if before else [])], newest=False)
        ancestors = await self._ancestors(filters.get("ancestor", ()))
        stopped_too = all_states or limit > 0 or bool(since or before) or rules.shows_stopped(filters)
        found: list[ContainerSummary] = []
        images: dict[str, str] = {}
        for container in self._kit.store.all():
            if not stopped_too and not container.live:
                continue
            sandbox = await self._kit.networks.sandbox(container.id) if container.running else None
            candidate = rules.Candidate(
                container.record, _network_names(container.record, sandbox), health_of(container) or "none"
            )
            if not rules.matches(candidate, filters, ancestors=ancestors, newer_than=newer_than, older_than=older_than):
                continue
            name = container.record.config.image
            if name not in images:
                images[name] = await self._image_id(name)
            summary = await self._summary(container, sandbox, size=size)
            if images[name] != summary.image_id:  # the name went to another image, or away
                summary.image = summary.image_id
            found.append(summary)
            if 0 < limit <= len(found):
                break
        return found

    def _created(self, references: Sequence[str], *, newest: bool) -> int | None:
        """The creation time that `since` / `before` values mean: the tightest of them."""
        times = [self._kit.store.get(reference).record.created_ns for reference in references]
        if not times:
            return None
        return max(times) if newest else min(times)

    async def _ancestors(self, references: Sequence[str]) -> set[str]:
        """An image that is not there has no containers."""
        return {await self._image_id(reference) for reference in references} - {""}

    async def _image_id(self, reference: str) -> str:
        """`sha256:...`, nothing for a name that no image has."""
        try:
            return (await self._kit.images.resolve(reference)).id
        except (NotFound, InvalidArgument):
            return ""

    async def _summary(self, container: Container, sandbox: Sandbox | None, *, size: bool) -> ContainerSummary:
        record = container.record
        writable, whole = await self._sizes.of(record) if size else (msgspec.UNSET, msgspec.UNSET)
        return ContainerSummary(
            id=record.id,
            names=[f"/{record.name}"],
            image=record.config.image,
            image_id=record.image_id,
            command=_shown(command_line(record.config)),
            created=record.created_ns // NS,
            ports=ports_of(record, sandbox),
            size_rw=writable,
            size_root_fs=whole,
            labels=record.config.labels or {},
            state=record.status.value,
            status=status_text(record, self._kit.clock.now_ns(), health_of(container)),
            host_config=SummaryHostConfig(network_mode=record.host_config.network_mode),
            network_settings=SummaryNetworks(networks=networks_of(record, sandbox)),
            mounts=[mount_point(mount) for mount in record.mounts],
        )


def health_of(container: Container) -> str:
    """`starting`, `healthy`, `unhealthy`, or nothing without a health check."""
    return container.health.status if container.health is not None else ""


def _shown(line: Sequence[str]) -> str:
    return " ".join(f"'{word}'" if any(char.isspace() for char in word) else word for word in line)


def mount_point(mount: MountRecord) -> MountPoint:
    return MountPoint(
        name=mount.name,
        source=mount.source,
        destination=mount.destination,
        driver=mount.driver,
        mode=mount.mode,
        rw=mount.rw,
        propagation=mount.propagation,
        type=mount.type,
    )


def networks_of(record: ContainerRecord, sandbox: Sandbox | None) -> dict[str, EndpointSettings]:
    """As realised while it runs; as wished, without addresses, otherwise."""
    if sandbox is not None:
        return dict(sandbox.endpoints)
    mode = record.host_config.network_mode
    if record.config.network_disabled or record.on_no_network or mode.startswith("container:"):
        return {}
    name = "bridge" if mode == "default" else mode
    wished = {key if key != "default" else "bridge": value for key, value in record.endpoints.items()}
    return {name: wished.get(name, EndpointSettings()), **wished}


def _network_names(record: ContainerRecord, sandbox: Sandbox | None) -> set[str]:
    endpoints = networks_of(record, sandbox)
    return {*endpoints, *(endpoint.network_id for endpoint in endpoints.values() if endpoint.network_id)}


def port_map(record: ContainerRecord, sandbox: Sandbox | None) -> dict[str, list[PortBinding] | None]:
    """`NetworkSettings.Ports`: empty while it does not run."""
    if sandbox is None:
        return {}
    return {port: list(bindings) if bindings is not None else None for port, bindings in sandbox.ports.items()}


def ports_of(record: ContainerRecord, sandbox: Sandbox | None) -> list[Port]:
    """The list's `Ports`: exposed ones without a host side, published ones once for each binding."""
    if sandbox is None:
        return []
    realised = port_map(record, sandbox)
    found: list[Port] = []
    for key in exposed_and_bound(sorted(record.config.exposed_ports or {}), realised):
        number, _, protocol = key.partition("/")
        bindings = realised.get(key)
        if not bindings:
            found.append(Port(private_port=int(number), type=protocol))
        for binding in bindings or []:
            found.append(
                Port(
                    ip=binding.host_ip,
                    private_port=int(number),
                    public_port=int(binding.host_port or 0),
                    type=protocol,
                )
            )
    return found
