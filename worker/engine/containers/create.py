"""Creating a container: everything is checked before anything is made, and what was made goes away if a step fails."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from dataclasses import replace

import msgspec

from api.errors import InvalidArgument, NotFound
from api.types.container import ContainerConfig, CreateAnswer, CreateBody, HostConfig
from api.types.endpoint import EndpointSettings
from base.ids import hex_id, short_id
from worker.engine.containers.binds import Bind, check_destination, parse_bind, parse_volumes_from
from worker.engine.containers.config import command_line, merge_config
from worker.engine.containers.hostconfig import normalise, throttled
from worker.engine.containers.kit import Kit
from worker.engine.containers.links import on_default_bridge, parse_link
from worker.engine.containers.names import check_name
from worker.engine.containers.plan import resources, tmpfs_options
from worker.engine.containers.records import ContainerRecord, MountRecord
from worker.engine.containers.rootfs import Rootfs
from worker.engine.containers.start import Starter
from worker.engine.containers.store import Container
from worker.engine.parts import ImageView
from worker.engine.runtime import spec
from worker.engine.runtime.host import RLIMITS, memory_nodes

log = logging.getLogger(__name__)

_SHARED_NETWORK = ("host", "container:")


class Creator:
    """POST /containers/create."""

    def __init__(self, kit: Kit, rootfs: Rootfs, starter: Starter) -> None:
        self._kit = kit
        self._rootfs = rootfs
        self._starter = starter

    async def create(self, name: str | None, body: CreateBody) -> CreateAnswer:
        """Make a container; durable on return."""
        checked = check_name(name) if name else None
        if not body.image:
            raise InvalidArgument("No image specified: Image is empty")
        default = self._kit.log_default
        host, warnings = normalise(body.host_config, os.sched_getaffinity(0), memory_nodes(), default)
        image = await self._kit.images.resolve(body.image)
        config = merge_config(body, image.config)
        _agree(config, host)
        if body.exposed_ports and host.network_mode.startswith("container:"):
            raise InvalidArgument("conflicting options: port exposing and the container type network mode")
        if host.port_bindings and host.network_mode == "host":
            warnings.append("Published ports are discarded when using host network mode")
        container_id = hex_id()
        self._kit.runtime.expect()  # most containers are started at once
        # Last, as in dockerd: of a request that is wrong in itself nobody wants to hear that its name is taken.
        with self._kit.store.reserve(checked, container_id) as chosen:
            return await self._create(container_id, chosen, body, image, config, host, warnings)

    async def _create(
        self,
        container_id: str,
        name: str,
        body: CreateBody,
        image: ImageView,
        config: ContainerConfig,
        host: HostConfig,
        warnings: list[str],
    ) -> CreateAnswer:
        kit = self._kit
        host = self._joined(host)
        for target, _ in map(parse_link, host.links or []):
            self._linked(target)
        asked = {name: [spec.Throttle(0, 0, 0)] for name in throttled(host)}
        warnings += spec.warnings(replace(resources(host), throttles=asked), kit.host)
        if host.network_mode.startswith("container:"):  # one network, one name in it
            other = self._other(host.network_mode.removeprefix("container:")).record.config
            config.hostname, config.domainname = other.hostname, other.domainname
        config.hostname = config.hostname or _hostname(container_id, host)
        line = command_line(config)
        record = ContainerRecord(
            id=container_id,
            name=name,
            created_ns=kit.clock.now_ns(),
            image_id=image.id,
            config=config,
            host_config=host,
            endpoints=_endpoints(body, host),
            path=line[0],
            args=line[1:],
        )
        try:
            await kit.networks.check(self._starter.request(record, checking=True))
        except NotFound:
            # The start will say so: of a 404 here clients think that the image is missing, and pull it.
            log.info("container made for a network that is not there yet container=%s", container_id)
        async with contextlib.AsyncExitStack() as undo:
            mounts = await self._mounts(record, undo)
            record = msgspec.structs.replace(record, mounts=mounts)
            undo.push_async_callback(self._rootfs.remove, container_id)
            await self._rootfs.create(container_id)
            undo.push_async_callback(kit.images.release, image.id, container_id)
            await kit.images.hold(image.id, container_id)
            container = await kit.store.add(record)
            undo.pop_all()
        kit.events.publish("container", "create", container_id, container.attributes())
        return CreateAnswer(id=container_id, warnings=warnings)

    def _joined(self, host: HostConfig) -> HostConfig:
        """Modes `container:<name>` are kept by id, so that a rename does not break them. Raises NotFound."""
        changes = {}
        for field in ("network_mode", "pid_mode", "ipc_mode"):
            mode = getattr(host, field)
            if mode.startswith("container:"):
                changes[field] = "container:" + self._other(mode.removeprefix("container:")).id
        return msgspec.structs.replace(host, **changes)

    def _linked(self, name: str) -> None:
        try:
            self._kit.store.get(name)
        except NotFound as error:
            raise InvalidArgument(f"could not get container for {name}: {error.message}") from None

    def _other(self, reference: str) -> Container:
        """A container that the request names. Raises InvalidArgument: a NotFound would make clients pull the image."""
        try:
            return self._kit.store.get(reference)
        except NotFound as error:
            raise InvalidArgument(error.message) from None

    async def _mounts(self, record: ContainerRecord, undo: contextlib.AsyncExitStack) -> list[MountRecord]:
        """Binds, then the volumes of other containers, then anonymous ones for what the image declares."""
        host, config = record.host_config, record.config
        found: dict[str, MountRecord] = {}
        for text in host.volumes_from or []:
            for mount in self._inherited(text):
                found[mount.destination] = mount
        seen: set[str] = set()
        for text in host.binds or []:
            bind = parse_bind(text)
            if bind.destination in seen or bind.destination in (host.tmpfs or {}):
                raise InvalidArgument(f"Duplicate mount point: {bind.destination}")
            seen.add(bind.destination)
            found[bind.destination] = _mount_of(bind, host.volume_driver)
        for destination in config.volumes or {}:
            if destination not in found and destination not in (host.tmpfs or {}):
                found[destination] = _mount_of(Bind("", destination), host.volume_driver)
        return [await self._ensure(mount, record.id, undo) for _, mount in sorted(found.items())]

    def _inherited(self, text: str) -> list[MountRecord]:
        reference, mode = parse_volumes_from(text)
        other = self._other(reference)
        return [
            msgspec.structs.replace(mount, mode="", rw=mount.rw and mode != "ro", anonymous=False, copy_up=False)
            for mount in other.record.mounts
        ]

    async def _ensure(self, mount: MountRecord, container_id: str, undo: contextlib.AsyncExitStack) -> MountRecord:
        if mount.type != "volume":
            return mount
        volumes = self._kit.volumes
        view = await volumes.ensure(mount.name, mount.driver, {}, {})
        if view.created:
            undo.push_async_callback(volumes.remove, view.name)
        undo.push_async_callback(volumes.release, view.name, container_id)
        await volumes.hold(view.name, container_id)
        return msgspec.structs.replace(mount, name=view.name, driver=view.driver, source=str(view.mountpoint or ""))


def _mount_of(bind: Bind, driver: str) -> MountRecord:
    if not bind.is_volume:
        return MountRecord(
            type="bind",
            source=bind.source,
            destination=bind.destination,
            mode=bind.mode,
            rw=bind.rw,
            propagation=bind.propagation or "rprivate",
        )
    return MountRecord(
        type="volume",
        name=bind.source,
        destination=bind.destination,
        driver=driver,
        # What dockerd says of a named volume without a mode: shared with other containers, as far as labels go.
        mode=bind.mode or ("z" if bind.source else ""),
        rw=bind.rw,
        anonymous=not bind.source,
        copy_up=bind.copy,
    )


def _hostname(container_id: str, host: HostConfig) -> str:
    return socket.gethostname() if "host" in (host.network_mode, host.uts_mode) else short_id(container_id)


def _endpoints(body: CreateBody, host: HostConfig) -> dict[str, EndpointSettings]:
    wanted = dict(body.networking_config.endpoints_config or {})
    if len(wanted) > 1:
        raise InvalidArgument(
            f"Container cannot be connected to network endpoints: {', '.join(sorted(wanted))}: one at create"
        )
    found = {name or host.network_mode: settings for name, settings in wanted.items()}
    if host.links and not on_default_bridge(host):
        settings = found.get(host.network_mode) or EndpointSettings()
        links = [":".join(parse_link(link)) for link in host.links]
        found[host.network_mode] = msgspec.structs.replace(settings, links=[*(settings.links or []), *links])
    return found


def _agree(config: ContainerConfig, host: HostConfig) -> None:
    """What contradicts between the two halves. Raises InvalidArgument with Docker's texts."""
    mode = host.network_mode
    if mode.startswith("container:"):
        if config.hostname:
            raise InvalidArgument("conflicting options: hostname and the network mode")
        if host.port_bindings or host.publish_all_ports:
            raise InvalidArgument("conflicting options: port publishing and the container type network mode")
        if host.dns:
            raise InvalidArgument("conflicting options: dns and the network mode")
        if host.extra_hosts:
            raise InvalidArgument("conflicting options: custom host-to-IP mapping and the network mode")
    if config.hostname and host.uts_mode == "host":
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    if config.mac_address and mode.startswith(_SHARED_NETWORK):
        raise InvalidArgument("conflicting options: mac-address and the network mode")
    for limit in host.ulimits or []:
        if limit.name not in RLIMITS:
            raise InvalidArgument(f"invalid ulimit type: {limit.name}")
    for destination, options in (host.tmpfs or {}).items():
        check_destination(destination)
        tmpfs_options(options)
