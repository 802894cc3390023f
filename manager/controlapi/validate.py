"""Whether a spec makes sense, whatever the swarm's state. Pure: raises InvalidArgument that names the field.

Source: v1.24 sections 3.7 to 3.10; texts as clients of dockerd know them where there are such.
"""

from __future__ import annotations

import re

import msgspec

from api.errors import Forbidden, InvalidArgument, NotSupported
from api.types.swarm import (
    ContainerSpec,
    EndpointSpec,
    Mount,
    NetworkAttachmentConfig,
    NodeSpec,
    Placement,
    ReplicatedService,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    SwarmSpec,
    TaskSpec,
)
from base.clock import NS
from manager import constraints
from manager.labels import moves_a_minute

NAME_LENGTH_MAX = 63
REPLICAS_MAX = 1_000_000
NANO_CPUS_MIN = 1_000_000
MEMORY_BYTES_MIN = 4 * 1024 * 1024
CERT_EXPIRY_MIN_NS = 3600 * NS
PREDEFINED_NETWORKS = frozenset({"bridge", "host", "none", "null", "default"})

_NAME = re.compile(r"[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*")
_HOST = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    # A first part is a registry only if it can't be anything else: it has a dot or a port, or is localhost.
    rf"(?:(?:(?:localhost|{_HOST}(?:\.{_HOST})+)(?::[0-9]+)?|{_HOST}:[0-9]+)/)?{_PART}(?:/{_PART})*"
    r"(?::\w[\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9+.\-_]*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
_LOG_DRIVERS = frozenset(
    {"", "json-file", "syslog", "journald", "gelf", "fluentd", "awslogs", "splunk", "etwlogs", "none"}
)


def service_spec(spec: ServiceSpec) -> ServiceSpec:
    """The spec in canonical form; raises what is wrong with it.

    Canonical: parts that mean the same left out or empty are empty. So a client that reads a spec and sends it back
    changes nothing, and tasks are not replaced for a difference that makes none.
    """
    _name(spec.name)
    _labels("Labels", spec.labels)
    template = _canonical(spec.task_template)
    _task_template(template)
    _networks(spec)
    _endpoint(spec.endpoint_spec)
    _update_config(spec)
    return msgspec.structs.replace(
        spec,
        mode=_mode(spec.mode),
        task_template=template,
        endpoint_spec=spec.endpoint_spec or EndpointSpec(),
    )


def _canonical(task: TaskSpec) -> TaskSpec:
    resources = task.resources or ResourceRequirements()
    policy = task.restart_policy or RestartPolicy()
    return msgspec.structs.replace(
        task,
        resources=ResourceRequirements(limits=_plain(resources.limits), reservations=_plain(resources.reservations)),
        restart_policy=msgspec.structs.replace(policy, max_attempts=policy.max_attempts or 0),
        placement=task.placement or Placement(),
    )


def _plain(resources: Resources | None) -> Resources:
    if resources is None:
        return Resources()
    return Resources(
        nano_cpus=resources.nano_cpus or resources.cpu, memory_bytes=resources.memory_bytes or resources.memory
    )


def node_spec(spec: NodeSpec) -> None:
    if spec.role not in ("worker", "manager"):
        raise InvalidArgument(f'invalid Role: "{spec.role}"')
    if spec.availability not in ("active", "pause", "drain"):
        raise InvalidArgument(f'invalid Availability: "{spec.availability}"')
    _labels("Labels", spec.labels)


def swarm_spec(spec: SwarmSpec) -> None:
    """A spec with its defaults filled in."""
    if spec.name != "default":
        raise InvalidArgument('swarm spec must be named "default"')
    _labels("Labels", spec.labels)
    limit = spec.orchestration.task_history_retention_limit
    _not_negative("Orchestration.TaskHistoryRetentionLimit", limit)
    for field in ("snapshot_interval", "log_entries_for_slow_followers", "heartbeat_tick", "election_tick"):
        _not_negative(f"Raft.{field.title().replace('_', '')}", getattr(spec.raft, field))
    _not_negative("Raft.KeepOldSnapshots", spec.raft.keep_old_snapshots)
    if spec.raft.election_tick and spec.raft.election_tick <= spec.raft.heartbeat_tick:
        raise InvalidArgument("Raft.ElectionTick must be greater than Raft.HeartbeatTick")
    if (spec.dispatcher.heartbeat_period or 0) < 0:
        raise InvalidArgument("heartbeat time period cannot be a negative duration")
    expiry = spec.ca_config.node_cert_expiry
    if expiry and expiry < CERT_EXPIRY_MIN_NS:
        raise InvalidArgument("minimum certificate expiry time is: 1h0m0s")
    for external in spec.ca_config.external_cas:
        if external.protocol != "cfssl":
            raise InvalidArgument(f'CAConfig.ExternalCAs: invalid protocol: "{external.protocol}"')
        if not external.url.startswith(("http://", "https://")):
            raise InvalidArgument(f'CAConfig.ExternalCAs: invalid URL: "{external.url}"')
    if spec.task_defaults.log_driver is not None:
        raise NotSupported("TaskDefaults.LogDriver is not supported yet: name the driver in each service")
    if spec.encryption_config.auto_lock_managers:
        raise NotSupported("EncryptionConfig.AutoLockManagers is not supported yet")


def _name(name: str) -> None:
    if not name:
        raise InvalidArgument("name must be provided")
    if len(name) > NAME_LENGTH_MAX:
        raise InvalidArgument(f"name must be {NAME_LENGTH_MAX} characters or fewer")
    if not _NAME.fullmatch(name):
        raise InvalidArgument("name must be valid as a DNS name component")


def _labels(field: str, labels: dict[str, str]) -> None:
    if "" in labels:
        raise InvalidArgument(f"{field}: a label's name can't be empty")
    moves_a_minute(labels)


def _not_negative(field: str, value: int | None) -> None:
    if value is not None and value < 0:
        raise InvalidArgument(f"{field} cannot be negative")


def _mode(mode: ServiceMode) -> ServiceMode:
    if mode.replicated is not None and mode.global_ is not None:
        raise InvalidArgument("must specify only one service mode")
    if mode.global_ is not None:
        return mode
    replicas = mode.replicated.replicas if mode.replicated is not None else None
    if replicas is None:
        replicas = 1
    if replicas < 0:
        raise InvalidArgument("Number of replicas must be non-negative")
    if replicas > REPLICAS_MAX:
        raise InvalidArgument(f"Number of replicas must be at most {REPLICAS_MAX}")
    return ServiceMode(replicated=ReplicatedService(replicas=replicas))


def _task_template(task: TaskSpec) -> None:
    _container(task.container_spec)
    if task.resources is not None:
        _resources(task.resources.limits)
        _resources(task.resources.reservations)
    if task.restart_policy is not None:
        policy = task.restart_policy
        if policy.condition not in ("none", "on-failure", "any"):
            raise InvalidArgument(f'invalid RestartCondition: "{policy.condition}"')
        _not_negative("TaskSpec: restart-delay", policy.delay)
        _not_negative("TaskSpec: restart-max-attempts", policy.max_attempts)
        _not_negative("TaskSpec: restart-window", policy.window)
    if task.placement is not None:
        constraints.parse(task.placement.constraints)
    if task.log_driver is not None and task.log_driver.name not in _LOG_DRIVERS:
        raise InvalidArgument(f'LogDriver: unknown driver "{task.log_driver.name}"')


def _container(spec: ContainerSpec) -> None:
    if not spec.image:
        raise InvalidArgument("ContainerSpec: image reference must be provided")
    if not _IMAGE.fullmatch(spec.image):
        raise InvalidArgument(f'ContainerSpec: "{spec.image}" is not a valid repository/tag')
    _not_negative("ContainerSpec: stop-grace-period", spec.stop_grace_period)
    for variable in spec.env:
        if not variable or variable.startswith("="):
            raise InvalidArgument(f'ContainerSpec: invalid environment variable: "{variable}"')
    targets: set[str] = set()
    for mount in spec.mounts:
        _mount(mount)
        target = mount.target.rstrip("/") or "/"
        if target in targets:
            raise InvalidArgument(f"ContainerSpec: duplicate mount point: {mount.target}")
        targets.add(target)


def _mount(mount: Mount) -> None:
    if mount.type not in ("bind", "volume"):
        raise InvalidArgument(f'invalid MountType: "{mount.type}"')
    if not mount.target.startswith("/"):
        raise InvalidArgument(f'invalid mount target, must be an absolute path: "{mount.target}"')
    if mount.type == "bind":
        if not mount.source.startswith("/"):
            raise InvalidArgument(f'invalid bind mount source, must be an absolute path: "{mount.source}"')
        propagation = mount.bind_options.propagation if mount.bind_options is not None else ""
        if propagation not in ("", "private", "rprivate", "shared", "rshared", "slave", "rslave"):
            raise InvalidArgument(f'invalid MountPropagation: "{propagation}"')
    elif "/" in mount.source:
        raise InvalidArgument(f'invalid volume mount source, must not be an absolute path: "{mount.source}"')


def _resources(resources: Resources | None) -> None:
    if resources is None:
        return
    if resources.nano_cpus and resources.nano_cpus < NANO_CPUS_MIN:
        raise InvalidArgument(f"invalid cpu value {resources.nano_cpus / 1e9:g}: Must be at least 0.001")
    if resources.memory_bytes and resources.memory_bytes < MEMORY_BYTES_MIN:
        raise InvalidArgument(f"invalid memory value {resources.memory_bytes}: Must be at least 4MiB")


def _networks(spec: ServiceSpec) -> None:
    """What can be said of the names alone; `networks.with_networks` finds them."""
    for attachment in attachments(spec):
        if attachment.target in PREDEFINED_NETWORKS:
            raise Forbidden(f"network {attachment.target} is not eligible for docker services")
        if attachment.target == "ingress":
            raise InvalidArgument('Service cannot be explicitly attached to the ingress network "ingress"')
        if not attachment.target:
            raise InvalidArgument("Networks: a network's name or id is needed")


def attachments(spec: ServiceSpec) -> list[NetworkAttachmentConfig]:
    """The networks that a spec names, in either place."""
    older = [NetworkAttachmentConfig(target=each) if isinstance(each, str) else each for each in spec.networks]
    return [*spec.task_template.networks, *older]


def _endpoint(endpoint: EndpointSpec | None) -> None:
    if endpoint is None:
        return
    if endpoint.mode not in ("vip", "dnsrr"):
        raise InvalidArgument(f'invalid resolution mode: "{endpoint.mode}"')
    if endpoint.ports and endpoint.mode == "dnsrr":
        raise InvalidArgument("EndpointSpec: port published with ingress mode can't be used with dnsrr mode")
    published: set[tuple[str, int]] = set()
    for port in endpoint.ports:
        if port.protocol not in ("tcp", "udp"):
            raise InvalidArgument(f'invalid protocol value "{port.protocol}"')
        if port.publish_mode != "ingress":
            raise NotSupported(f"EndpointSpec: PublishMode {port.publish_mode}: ports are published on every node only")
        _port("TargetPort", port.target_port, at_least=1)
        _port("PublishedPort", port.published_port, at_least=0)
        key = (port.protocol, port.published_port)
        if port.published_port and key in published:
            raise InvalidArgument("EndpointSpec: duplicate published ports provided")
        published.add(key)


def _port(field: str, value: int, *, at_least: int) -> None:
    if not at_least <= value <= 65535:
        raise InvalidArgument(f"EndpointSpec: {field} {value} is not a port number")


def _update_config(spec: ServiceSpec) -> None:
    config = spec.update_config
    if config is None:
        return
    if config.failure_action not in ("pause", "continue"):
        raise InvalidArgument(f'unrecognized update failure action: "{config.failure_action}"')
    _not_negative("UpdateConfig.Parallelism", config.parallelism)
    if config.delay < 0:
        raise InvalidArgument("TaskSpec: update-delay cannot be negative")
