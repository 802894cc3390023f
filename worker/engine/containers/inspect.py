"""GET /containers/{id}/json: everything known of one container, under Docker's names. Takes no lock."""

from __future__ import annotations

import msgspec

from api.types.container import (
    ContainerInspect,
    ContainerState,
    GraphDriver,
    Health,
    HealthResult,
    HostConfig,
    NetworkSettings,
)
from base.clock import rfc3339nano
from worker.engine.containers.kit import Kit
from worker.engine.containers.links import parse_link, shown
from worker.engine.containers.listing import mount_point, networks_of, port_map
from worker.engine.containers.records import ContainerRecord
from worker.engine.containers.sizes import Sizes
from worker.engine.containers.states import Status
from worker.engine.containers.store import Container
from worker.engine.parts import Sandbox

DRIVER = "overlay2"


class Inspector:
    def __init__(self, kit: Kit, sizes: Sizes) -> None:
        self._kit = kit
        self._sizes = sizes

    async def inspect(self, ref: str, *, size: bool = False) -> ContainerInspect:
        """Raises NotFound."""
        container = self._kit.store.get(ref)
        record = container.record
        sandbox = await self._kit.networks.sandbox(record.id) if container.running else None
        writable, whole = await self._sizes.of(record) if size else (msgspec.UNSET, msgspec.UNSET)
        layout = self._kit.layout
        directory = layout.directory(record.id)
        # The files are made by the first start.
        made = record.started_ns != 0 or container.running
        to_file = made and record.host_config.log_config.type == "json-file"
        return ContainerInspect(
            id=record.id,
            created=rfc3339nano(record.created_ns),
            path=record.path,
            args=record.args,
            state=state_of(container),
            image=record.image_id,
            resolv_conf_path=str(sandbox.resolv_conf if sandbox else directory / "resolv.conf") if made else "",
            hostname_path=str(sandbox.hostname if sandbox else directory / "hostname") if made else "",
            hosts_path=str(sandbox.hosts if sandbox else directory / "hosts") if made else "",
            log_path=str(layout.log(record.id)) if to_file else "",
            name=f"/{record.name}",
            restart_count=record.restart_count,
            driver=DRIVER,
            exec_ids=sorted(container.execs) or None,
            host_config=self._host_config(record),
            graph_driver=GraphDriver(
                name=DRIVER,
                data={
                    "MergedDir": str(layout.merged(record.id)),
                    "UpperDir": str(layout.upper(record.id)),
                    "WorkDir": str(layout.work(record.id)),
                },
            ),
            size_rw=writable,
            size_root_fs=whole,
            mounts=[mount_point(mount) for mount in record.mounts],
            config=record.config,
            network_settings=network_settings(record, sandbox),
        )

    def _host_config(self, record: ContainerRecord) -> HostConfig:
        """With links by the names that both ends have now."""
        host = record.host_config
        if not host.links:
            return host
        found = {name: self._kit.store.find(name) for name, _ in map(parse_link, host.links)}
        names = {name: other.record.name for name, other in found.items() if other is not None}
        return msgspec.structs.replace(host, links=shown(host.links, record.name, names))


def state_of(container: Container) -> ContainerState:
    """Docker's flags: a restarting container counts as running, and so does a paused one."""
    record = container.record
    state = ContainerState(
        status=record.status.value,
        running=container.live,
        paused=record.status is Status.PAUSED,
        restarting=record.status is Status.RESTARTING,
        oom_killed=record.oom_killed,
        dead=record.status is Status.DEAD,
        pid=record.pid,
        exit_code=record.exit_code,
        error=record.error,
        started_at=rfc3339nano(record.started_ns),
        finished_at=rfc3339nano(record.finished_ns),
    )
    if container.health is not None:
        watch = container.health
        state.health = Health(
            status=watch.status,
            failing_streak=watch.streak,
            log=[
                HealthResult(
                    start=rfc3339nano(probe.start_ns),
                    end=rfc3339nano(probe.end_ns),
                    exit_code=probe.exit_code,
                    output=probe.output,
                )
                for probe in watch.log
            ],
        )
    return state


def network_settings(record: ContainerRecord, sandbox: Sandbox | None) -> NetworkSettings:
    """The default bridge's endpoint is repeated at the top."""
    networks = networks_of(record, sandbox)
    settings = NetworkSettings(ports=port_map(record, sandbox), networks=networks)
    if sandbox is not None:
        settings.sandbox_id = sandbox.sandbox_id
        settings.sandbox_key = str(sandbox.netns) if sandbox.netns is not None else ""
        default = sandbox.endpoints.get("bridge")
        if default is not None:
            settings.endpoint_id = default.endpoint_id
            settings.gateway = default.gateway
            settings.ip_address = default.ip_address
            settings.ip_prefix_len = default.ip_prefix_len
            settings.ipv6_gateway = default.ipv6_gateway
            settings.global_ipv6_address = default.global_ipv6_address
            settings.global_ipv6_prefix_len = default.global_ipv6_prefix_len
            settings.mac_address = default.mac_address
    return settings
