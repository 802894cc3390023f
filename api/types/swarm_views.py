"""Answers of the swarm endpoints (v1.24 sections 3.7 to 3.10). Specs go out as the user's JSON with defaults shown."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from api.types.base import Api

SpecBody = dict[str, Any]


class Version(Api, kw_only=True):
    index: int = 0


class ObjectView(Api, kw_only=True):
    """What every swarm object begins with."""

    id: str
    version: Version
    created_at: str
    updated_at: str


class PlatformView(Api, kw_only=True):
    architecture: str = ""
    os: str = ""


class ResourcesView(Api, kw_only=True):
    nano_cpus: int = msgspec.field(name="NanoCPUs", default=0)
    memory_bytes: int = 0


class PluginView(Api, kw_only=True):
    type: str
    name: str


class EngineView(Api, kw_only=True):
    engine_version: str = ""
    labels: dict[str, str] = {}
    plugins: list[PluginView] = []


class DescriptionView(Api, kw_only=True):
    hostname: str = ""
    platform: PlatformView = msgspec.field(default_factory=PlatformView)
    resources: ResourcesView = msgspec.field(default_factory=ResourcesView)
    engine: EngineView = msgspec.field(default_factory=EngineView)


class NodeStatusView(Api, kw_only=True):
    state: str = ""
    message: str | UnsetType = UNSET
    addr: str | UnsetType = UNSET


class ManagerStatusView(Api, kw_only=True):
    leader: bool | UnsetType = UNSET
    reachability: str = ""
    addr: str = ""


class NodeView(ObjectView, kw_only=True):
    spec: SpecBody
    description: DescriptionView
    status: NodeStatusView
    manager_status: ManagerStatusView | UnsetType = UNSET


class JoinTokensView(Api, kw_only=True):
    worker: str = ""
    manager: str = ""


class SwarmView(ObjectView, kw_only=True):
    spec: SpecBody
    join_tokens: JoinTokensView


class VirtualIPView(Api, kw_only=True):
    network_id: str = ""
    addr: str = ""


class EndpointView(Api, kw_only=True):
    spec: SpecBody
    ports: list[SpecBody] | UnsetType = UNSET
    virtual_ips: list[VirtualIPView] | UnsetType = msgspec.field(name="VirtualIPs", default=UNSET)


class UpdateStatusView(Api, kw_only=True):
    state: str = ""
    started_at: str = ""
    completed_at: str | UnsetType = UNSET
    message: str = ""


class ServiceView(ObjectView, kw_only=True):
    spec: SpecBody
    previous_spec: SpecBody | UnsetType = UNSET
    endpoint: EndpointView
    update_status: UpdateStatusView | UnsetType = UNSET


class ContainerStatusView(Api, kw_only=True):
    container_id: str | UnsetType = UNSET
    pid: int | UnsetType = UNSET
    exit_code: int | UnsetType = UNSET


class TaskStatusView(Api, kw_only=True):
    timestamp: str
    state: str
    message: str | UnsetType = UNSET
    err: str | UnsetType = UNSET
    container_status: ContainerStatusView


class NetworkView(ObjectView, kw_only=True):
    spec: SpecBody
    driver_state: SpecBody
    ipam_options: SpecBody = msgspec.field(name="IPAMOptions")


class AttachmentView(Api, kw_only=True):
    network: NetworkView
    addresses: list[str]


class TaskView(ObjectView, kw_only=True):
    name: str
    labels: dict[str, str]
    spec: SpecBody
    service_id: str | UnsetType = UNSET
    slot: int | UnsetType = UNSET
    node_id: str | UnsetType = UNSET
    status: TaskStatusView
    desired_state: str
    networks_attachments: list[AttachmentView] | UnsetType = UNSET


class ServiceCreated(Api, kw_only=True):
    id: str


class ServiceUpdated(Api, kw_only=True):
    warnings: list[str] | None = None
