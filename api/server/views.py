"""Swarm domain objects as the JSON of v1.24 (sections 3.7 to 3.10). Pure.

Invariant: a spec that a client reads here and sends back unchanged is the same spec; so what is shown beyond what was
stored is only each field's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from api.errors import NotSupported
from api.types.network import IPAM, IPAMConfig, Network, NetworkCreate
from api.types.objects import (
    Cluster,
    Endpoint,
    Meta,
    NetworkAttachment,
    Node,
    Service,
    SwarmNetwork,
    Task,
    UpdateStatus,
)
from api.types.swarm import (
    Driver,
    EndpointSpec,
    IPAMOptions,
    IPAMPool,
    NetworkSpec,
    NodeSpec,
    PortConfig,
    ServiceSpec,
    SwarmSpec,
    TaskSpec,
)
from api.types.swarm_views import (
    AttachmentView,
    ContainerStatusView,
    DescriptionView,
    EndpointView,
    EngineView,
    JoinTokensView,
    ManagerStatusView,
    NetworkView,
    NodeStatusView,
    NodeView,
    PlatformView,
    PluginView,
    ResourcesView,
    ServiceView,
    SpecBody,
    SwarmView,
    TaskStatusView,
    TaskView,
    UpdateStatusView,
    Version,
    VirtualIPView,
)
from base.clock import rfc3339nano

VXLAN_IDS = "com.docker.network.driver.overlay.vxlanid_list"


def _head(item_id: str, meta: Meta) -> dict[str, Any]:
    return {
        "id": item_id,
        "version": Version(index=meta.version),
        "created_at": rfc3339nano(meta.created_at),
        "updated_at": rfc3339nano(meta.updated_at),
    }


def _body(spec: msgspec.Struct) -> SpecBody:
    body: SpecBody = msgspec.to_builtins(spec)
    return body


def swarm_view(cluster: Cluster) -> SwarmView:
    tokens = cluster.join_tokens
    return SwarmView(
        **_head(cluster.id, cluster.meta),
        spec=swarm_spec_body(cluster.spec),
        join_tokens=JoinTokensView(worker=tokens.worker, manager=tokens.manager),
    )


def cluster_info(cluster: Cluster) -> dict[str, Any]:
    """The cluster as `GET /info` shows it to everybody: without the join tokens."""
    view: dict[str, Any] = msgspec.to_builtins(swarm_view(cluster))
    del view["JoinTokens"]
    return view


def swarm_spec_body(spec: SwarmSpec) -> SpecBody:
    body = _body(spec)
    for part in ("Orchestration", "Raft", "Dispatcher", "CAConfig", "TaskDefaults"):
        body.setdefault(part, {})
    body.setdefault("Labels", {})
    body["EncryptionConfig"] = {"AutoLockManagers": spec.encryption_config.auto_lock_managers}
    return body


def node_view(node: Node) -> NodeView:
    manager = node.manager_status
    return NodeView(
        **_head(node.id, node.meta),
        spec=node_spec_body(node.spec),
        description=_description(node),
        status=NodeStatusView(
            state=node.status.state.value, message=node.status.message or UNSET, addr=node.status.addr or UNSET
        ),
        manager_status=UNSET
        if manager is None
        else ManagerStatusView(leader=manager.leader or UNSET, reachability=manager.reachability, addr=manager.addr),
    )


def node_spec_body(spec: NodeSpec) -> SpecBody:
    body = _body(spec)
    body.setdefault("Labels", {})
    return body


def _description(node: Node) -> DescriptionView:
    known = node.description
    if known is None:
        return DescriptionView()
    return DescriptionView(
        hostname=known.hostname,
        platform=PlatformView(architecture=known.architecture, os=known.os),
        resources=ResourcesView(nano_cpus=known.nano_cpus, memory_bytes=known.memory_bytes),
        engine=EngineView(
            engine_version=known.engine.engine_version,
            labels=known.engine.labels,
            plugins=[PluginView(type=kind, name=name) for kind, name in known.engine.plugins],
        ),
    )


def service_view(service: Service) -> ServiceView:
    return ServiceView(
        **_head(service.id, service.meta),
        spec=service_spec_body(service.spec),
        previous_spec=UNSET if service.previous_spec is None else service_spec_body(service.previous_spec),
        endpoint=_endpoint(service.endpoint, service.spec.endpoint_spec),
        update_status=UNSET if service.update_status is None else _update_status(service.update_status),
    )


def service_spec_body(spec: ServiceSpec) -> SpecBody:
    body = _body(spec)
    body.setdefault("Labels", {})
    body["TaskTemplate"] = task_spec_body(spec.task_template)
    body["EndpointSpec"] = endpoint_spec_body(spec.endpoint_spec)
    if spec.update_config is not None:
        config = spec.update_config
        body["UpdateConfig"]["Parallelism"] = config.parallelism
        body["UpdateConfig"]["FailureAction"] = config.failure_action
    return body


def task_spec_body(spec: TaskSpec) -> SpecBody:
    body = _body(spec)
    container = body.setdefault("ContainerSpec", {})
    for shown, mount in zip(container.get("Mounts", []), spec.container_spec.mounts, strict=True):
        shown["Type"] = mount.type
    resources = body.setdefault("Resources", {})
    resources.setdefault("Limits", {})
    resources.setdefault("Reservations", {})
    policy = body.setdefault("RestartPolicy", {})
    policy.setdefault("Condition", "any")
    policy.setdefault("MaxAttempts", 0)
    body.setdefault("Placement", {})
    return body


def endpoint_spec_body(spec: EndpointSpec | None) -> SpecBody:
    spec = spec or EndpointSpec()
    body: SpecBody = {"Mode": spec.mode}
    if spec.ports:
        body["Ports"] = [_port(port) for port in spec.ports]
    return body


def _port(port: PortConfig) -> SpecBody:
    body = _body(port)
    body["Protocol"] = port.protocol
    body["PublishMode"] = port.publish_mode
    return body


def _endpoint(endpoint: Endpoint | None, spec: EndpointSpec | None) -> EndpointView:
    if endpoint is None:
        return EndpointView(spec={})
    return EndpointView(
        spec=endpoint_spec_body(spec),
        ports=[_port(port) for port in endpoint.ports] or UNSET,
        virtual_ips=[VirtualIPView(network_id=vip.network_id, addr=vip.addr) for vip in endpoint.virtual_ips] or UNSET,
    )


def _update_status(status: UpdateStatus) -> UpdateStatusView:
    return UpdateStatusView(
        state=status.state,
        started_at=rfc3339nano(status.started_at),
        completed_at=rfc3339nano(status.completed_at) if status.completed_at else UNSET,
        message=status.message,
    )


def task_view(task: Task, networks: Mapping[str, SwarmNetwork] | None = None) -> TaskView:
    """`networks`: the swarm's, by id; a place on one that is gone is left out."""
    status = task.status
    places = [(place, (networks or {}).get(place.network_id)) for place in task.networks]
    attachments = [attachment_view(place, network) for place, network in places if network is not None]
    return TaskView(
        **_head(task.id, task.meta),
        name=task.name,
        labels=task.labels,
        spec=task_spec_body(task.spec),
        service_id=task.service_id or UNSET,
        slot=task.slot or UNSET,
        node_id=task.node_id or UNSET,
        status=TaskStatusView(
            timestamp=rfc3339nano(status.timestamp),
            state=status.state.label,
            message=status.message or UNSET,
            err=status.err or UNSET,
            container_status=ContainerStatusView(
                container_id=status.container_id or UNSET, pid=status.pid or UNSET, exit_code=status.exit_code or UNSET
            ),
        ),
        desired_state=task.desired_state.label,
        networks_attachments=attachments or UNSET,
    )


def network_spec(body: NetworkCreate) -> NetworkSpec:
    """What `POST /networks/create` asks of the swarm. Raises InvalidArgument or NotSupported for what can't be."""
    if body.enable_ipv6:
        raise NotSupported("EnableIPv6: IPv6 networks are not supported")
    if body.config_only:
        raise NotSupported("ConfigOnly: networks that are configuration only are not supported")
    ipam = body.ipam or IPAM()
    return NetworkSpec(
        name=body.name,
        labels=dict(body.labels or {}),
        driver_configuration=Driver(name=body.driver or "overlay", options=dict(body.options or {})),
        internal=bool(body.internal),
        attachable=bool(body.attachable),
        ingress=bool(body.ingress),
        ipam_options=IPAMOptions(
            driver=Driver(name=ipam.driver or "default", options=dict(ipam.options or {})),
            configs=[
                IPAMPool(
                    subnet=config.subnet,
                    range=config.ip_range,
                    gateway=config.gateway,
                    auxiliary=dict(config.auxiliary_addresses or config.aux_address or {}),
                )
                for config in ipam.config or []
            ],
        ),
    )


def overlay_view(network: SwarmNetwork) -> Network:
    """A swarm network as section 3.5 shows networks. Containers are for the node to say."""
    spec = network.spec
    return Network(
        name=spec.name,
        id=network.id,
        created=rfc3339nano(network.meta.created_at),
        scope="swarm",
        driver="overlay",
        ipam=IPAM(
            driver=spec.ipam_options.driver.name or "default",
            options=spec.ipam_options.driver.options or None,
            config=[
                IPAMConfig(
                    subnet=pool.subnet,
                    ip_range=pool.range,
                    gateway=pool.gateway,
                    auxiliary_addresses=pool.auxiliary or None,
                )
                for pool in network.pools or spec.ipam_options.configs
            ],
        ),
        internal=spec.internal,
        attachable=spec.attachable,
        containers={},
        options=_driver_options(network),
        labels=spec.labels,
    )


def _driver_options(network: SwarmNetwork) -> dict[str, str]:
    options = dict(network.spec.driver_configuration.options)
    if network.allocated:
        options[VXLAN_IDS] = str(network.vni)
    return options


def attachment_view(attachment: NetworkAttachment, network: SwarmNetwork) -> AttachmentView:
    """A task's place on a network (section 3.10)."""
    spec = network.spec
    wished: SpecBody = {"Name": spec.name, "DriverConfiguration": _body(spec.driver_configuration)}
    if spec.labels:
        wished["Labels"] = spec.labels
    for flag, name in ((spec.internal, "Internal"), (spec.attachable, "Attachable"), (spec.ingress, "Ingress")):
        if flag:
            wished[name] = True
    wished["IPAMOptions"] = {"Driver": {}, "Configs": [_pool(pool) for pool in spec.ipam_options.configs]}
    view = NetworkView(
        **_head(network.id, network.meta),
        spec=wished,
        driver_state={"Name": "overlay", "Options": _driver_options(network)},
        ipam_options={"Driver": {"Name": "default"}, "Configs": [_pool(pool) for pool in network.pools]},
    )
    return AttachmentView(network=view, addresses=attachment.addresses)


def _pool(pool: IPAMPool) -> SpecBody:
    return {
        key: value
        for key, value in (("Subnet", pool.subnet), ("Range", pool.range), ("Gateway", pool.gateway))
        if value
    }
