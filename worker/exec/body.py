"""A task as the engine's create request: pure translation of a ContainerSpec (v1.24 "Create a service").

What the engine can't express is refused here by the spec's field, so the task is rejected with a reason that a user can
act upon.
"""

from __future__ import annotations

from api.errors import InvalidArgument, NotSupported
from api.types.container import CreateBody, Empty, HostConfig, LogConfig, NetworkingConfig
from api.types.endpoint import EndpointIPAMConfig, EndpointSettings
from api.types.objects import Task
from api.types.swarm import Mount, ResourceRequirements

LABEL = "com.docker.swarm."
TASK_ID_LABEL = LABEL + "task.id"
CPU_PERIOD_US = 100_000
CPU_QUOTA_US_MIN = 1_000


def create_body(task: Task) -> CreateBody:
    """The container of a task.

    Raises: InvalidArgument or NotSupported, naming the field of the spec.
    """
    spec = task.spec.container_spec
    if not spec.image:
        raise InvalidArgument("ContainerSpec: image reference must be provided")
    host = _host(task)
    anonymous: dict[str, Empty] = {}
    binds = []
    for mount in spec.mounts:
        if mount.type == "volume" and not mount.source:
            anonymous[_anonymous(mount)] = Empty()
        else:
            binds.append(_bind(mount))
    host.binds = binds or None
    return CreateBody(
        image=spec.image,
        hostname=spec.hostname,
        user=spec.user,
        env=list(spec.env) or None,
        entrypoint=list(spec.command) or None,
        cmd=list(spec.args) or None,
        working_dir=spec.dir,
        tty=spec.tty,
        labels=labels(task),
        volumes=anonymous or None,
        host_config=host,
        networking_config=NetworkingConfig(endpoints_config=_first(places(task), host)),
    )


def places(task: Task) -> dict[str, EndpointSettings]:
    """The task's places on swarm networks, by the networks' ids. Without any it is on the node's own bridge."""
    return {
        place.network_id: EndpointSettings(
            ipam_config=EndpointIPAMConfig(ipv4_address=place.addresses[0].partition("/")[0])
        )
        for place in task.networks
        if place.addresses
    }


def _first(wanted: dict[str, EndpointSettings], host: HostConfig) -> dict[str, EndpointSettings]:
    """A container is created on one network; the others are joined before it starts."""
    for network_id, settings in wanted.items():
        host.network_mode = network_id
        return {network_id: settings}
    return {}


def labels(task: Task) -> dict[str, str]:
    """The user's container labels, and whose container it is; the latter can't be overridden."""
    ours = {
        "node.id": task.node_id,
        "service.id": task.service_id,
        "service.name": task.service_name,
        "task": "",
        "task.id": task.id,
        "task.name": task.name,
    }
    return dict(task.spec.container_spec.labels) | {LABEL + key: value for key, value in ours.items()}


def named_volumes(task: Task) -> list[Mount]:
    """The mounts whose volume has a driver, options or labels of its own: made before the container."""
    return [
        mount
        for mount in task.spec.container_spec.mounts
        if mount.type == "volume" and mount.source and _has_options(mount)
    ]


def _host(task: Task) -> HostConfig:
    host = HostConfig(group_add=list(task.spec.container_spec.groups) or None)
    _limit(host, task.spec.resources)
    driver = task.spec.log_driver
    if driver is not None and driver.name:
        host.log_config = LogConfig(type=driver.name, config=dict(driver.options))
    return host


def _limit(host: HostConfig, resources: ResourceRequirements | None) -> None:
    if resources is None:
        return
    if resources.limits is not None:
        host.memory = resources.limits.memory_bytes
        if resources.limits.nano_cpus:
            host.cpu_period = CPU_PERIOD_US
            host.cpu_quota = max(CPU_QUOTA_US_MIN, resources.limits.nano_cpus * CPU_PERIOD_US // 1_000_000_000)
    if resources.reservations is not None:
        host.memory_reservation = resources.reservations.memory_bytes


def _bind(mount: Mount) -> str:
    """`source:target[:options]`. Raises InvalidArgument for what that form can't say."""
    if mount.type not in ("bind", "volume"):
        raise InvalidArgument(f"Mounts: invalid mount type: {mount.type}")
    if mount.type == "bind" and not mount.source.startswith("/"):
        raise InvalidArgument(f"Mounts: invalid bind mount source, must be an absolute path: {mount.source}")
    if mount.type == "volume" and "/" in mount.source:
        raise InvalidArgument(f"Mounts: invalid volume name: {mount.source}")
    for path in (mount.source, mount.target):
        if ":" in path:
            raise InvalidArgument(f"Mounts: a path with a colon is not supported: {path}")
    options = ["ro"] if mount.read_only else []
    if mount.type == "bind" and mount.bind_options is not None and mount.bind_options.propagation:
        options.append(mount.bind_options.propagation)
    if mount.type == "volume" and mount.volume_options is not None and mount.volume_options.no_copy:
        options.append("nocopy")
    return ":".join([mount.source, _target(mount), *([",".join(options)] if options else [])])


def _anonymous(mount: Mount) -> str:
    if mount.read_only or _has_options(mount) or (mount.volume_options is not None and mount.volume_options.no_copy):
        raise NotSupported("Mounts: a volume with options needs a Source")
    return _target(mount)


def _target(mount: Mount) -> str:
    if not mount.target.startswith("/"):
        raise InvalidArgument(f"Mounts: invalid mount target, must be an absolute path: {mount.target}")
    return mount.target


def _has_options(mount: Mount) -> bool:
    options = mount.volume_options
    return options is not None and (options.driver_config is not None or bool(options.labels))
