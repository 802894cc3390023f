"""Swarm specs: the user's wishes, in the shapes of v1.24 sections 3.7 to 3.10. Durations are nanoseconds.

The system never writes a spec. `None` means the user left the field out and the default applies where it is used.
Fields newer than 1.24 that a current CLI sends are decoded here only when they are served.
"""

from __future__ import annotations

import msgspec

from api.types.base import Spec

NodeRole = str
"""`worker` or `manager`."""
Availability = str
"""`active`, `pause` or `drain`."""


class Driver(Spec, frozen=True, kw_only=True):
    """A named driver with options (log driver, network driver, IPAM driver, volume driver)."""

    name: str = ""
    options: dict[str, str] = {}


class VolumeOptions(Spec, frozen=True, kw_only=True):
    no_copy: bool = False
    labels: dict[str, str] = {}
    driver_config: Driver | None = None


class BindOptions(Spec, frozen=True, kw_only=True):
    propagation: str = ""


class Mount(Spec, frozen=True, kw_only=True):
    type: str = "volume"
    source: str = ""
    target: str = ""
    read_only: bool = False
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None


class ContainerSpec(Spec, frozen=True, kw_only=True):
    image: str = ""
    labels: dict[str, str] = {}
    command: list[str] = []
    args: list[str] = []
    hostname: str = ""
    env: list[str] = []
    dir: str = ""
    user: str = ""
    groups: list[str] = []
    tty: bool = msgspec.field(name="TTY", default=False)
    mounts: list[Mount] = []
    stop_grace_period: int | None = None


class Resources(Spec, frozen=True, kw_only=True):
    nano_cpus: int = 0
    memory_bytes: int = 0
    cpu: int = msgspec.field(name="CPU", default=0)
    memory: int = 0
    """The names that "Update a service" has for the two above; the control API moves them there."""


class ResourceRequirements(Spec, frozen=True, kw_only=True):
    limits: Resources | None = None
    reservations: Resources | None = None


class RestartPolicy(Spec, frozen=True, kw_only=True):
    condition: str = "any"
    """`none`, `on-failure` or `any`."""
    delay: int | None = None
    max_attempts: int | None = None
    window: int | None = None


class Placement(Spec, frozen=True, kw_only=True):
    constraints: list[str] = []


class NetworkAttachmentConfig(Spec, frozen=True, kw_only=True):
    target: str = ""
    aliases: list[str] = []


class TaskSpec(Spec, frozen=True, kw_only=True):
    container_spec: ContainerSpec = ContainerSpec()
    resources: ResourceRequirements | None = None
    restart_policy: RestartPolicy | None = None
    placement: Placement | None = None
    networks: list[NetworkAttachmentConfig] = []
    log_driver: Driver | None = None
    force_update: int = 0


class ReplicatedService(Spec, frozen=True, kw_only=True):
    replicas: int | None = None


class GlobalService(Spec, frozen=True, kw_only=True):
    pass


class ServiceMode(Spec, frozen=True, kw_only=True):
    """Exactly one is set after validation; neither means replicated with one replica."""

    replicated: ReplicatedService | None = None
    global_: GlobalService | None = msgspec.field(name="Global", default=None)


class UpdateConfig(Spec, frozen=True, kw_only=True):
    parallelism: int = 0
    """Tasks replaced at a time; 0 is all at once."""
    delay: int = 0
    failure_action: str = "pause"
    """`pause` or `continue`."""


class PortConfig(Spec, frozen=True, kw_only=True):
    name: str = ""
    protocol: str = "tcp"
    target_port: int = 0
    published_port: int = 0
    publish_mode: str = "ingress"
    """Came after API 1.24. Clients of today show only ports that say `ingress`; `host` is refused, not ignored."""


class EndpointSpec(Spec, frozen=True, kw_only=True):
    mode: str = "vip"
    """`vip` or `dnsrr`."""
    ports: list[PortConfig] = []


class ServiceSpec(Spec, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    task_template: TaskSpec = TaskSpec()
    mode: ServiceMode = ServiceMode()
    update_config: UpdateConfig | None = None
    networks: list[NetworkAttachmentConfig | str] = []
    """The older place, by the document's text names or ids; stored in the task template."""
    endpoint_spec: EndpointSpec | None = None


class IPAMPool(Spec, frozen=True, kw_only=True):
    """One subnet as the user wishes it; addresses are text."""

    subnet: str = ""
    range: str = ""
    gateway: str = ""
    auxiliary: dict[str, str] = {}


class IPAMOptions(Spec, frozen=True, kw_only=True):
    driver: Driver = Driver()
    configs: list[IPAMPool] = []


class NetworkSpec(Spec, frozen=True, kw_only=True):
    """A network of swarm scope, as `POST /networks/create` asks for it (v1.24 section 3.5)."""

    name: str = ""
    labels: dict[str, str] = {}
    driver_configuration: Driver = Driver()
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    ipam_options: IPAMOptions = IPAMOptions()


class NodeSpec(Spec, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    role: NodeRole = ""
    availability: Availability = ""


class OrchestrationConfig(Spec, frozen=True, kw_only=True):
    task_history_retention_limit: int | None = None


class RaftConfig(Spec, frozen=True, kw_only=True):
    snapshot_interval: int = 0
    keep_old_snapshots: int | None = None
    log_entries_for_slow_followers: int = 0
    heartbeat_tick: int = 0
    election_tick: int = 0


class DispatcherConfig(Spec, frozen=True, kw_only=True):
    heartbeat_period: int = 0


class ExternalCA(Spec, frozen=True, kw_only=True):
    protocol: str = ""
    url: str = ""
    options: dict[str, str] = {}


class CAConfig(Spec, frozen=True, kw_only=True):
    node_cert_expiry: int = 0
    external_cas: list[ExternalCA] = []
    external_ca: ExternalCA | list[ExternalCA] | None = None
    """The same by the document's name; clients send the other one."""


class TaskDefaults(Spec, frozen=True, kw_only=True):
    log_driver: Driver | None = None


class EncryptionConfig(Spec, frozen=True, kw_only=True):
    auto_lock_managers: bool = False


class SwarmSpec(Spec, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    orchestration: OrchestrationConfig = OrchestrationConfig()
    raft: RaftConfig = RaftConfig()
    dispatcher: DispatcherConfig = DispatcherConfig()
    ca_config: CAConfig = CAConfig()
    task_defaults: TaskDefaults = TaskDefaults()
    encryption_config: EncryptionConfig = EncryptionConfig()
