"""The control API: what is refused and in which words, versions, look-ups, filters."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from api import errors
from api.types.objects import Cluster, JoinTokens, ManagerStatus, Node, NodeState, RootCA, Service
from api.types.swarm import (
    BindOptions,
    CAConfig,
    ContainerSpec,
    Driver,
    EndpointSpec,
    ExternalCA,
    GlobalService,
    Mount,
    NetworkAttachmentConfig,
    NodeSpec,
    Placement,
    PortConfig,
    RaftConfig,
    ReplicatedService,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    SwarmSpec,
    TaskDefaults,
    TaskSpec,
    UpdateConfig,
)
from manager import operations as ops
from manager.controlapi import validate
from manager.controlapi.control import with_reachability
from manager.controlapi.defaults import filled
from manager.controlapi.lookup import find_node, find_service, list_nodes, list_services, list_tasks
from manager.controlapi.writes import Writes
from manager.store.store import Batch, Store
from manager.store.transitions import Component
from tests.unit.manager import make
from tests.unit.manager.test_store import new_store

replace = msgspec.structs.replace


class FakeMembers:
    def __init__(self) -> None:
        self.safe = True
        self.removed: list[int] = []

    def safe_to_remove(self, raft_id: int) -> bool:
        return self.safe

    async def remove(self, raft_id: int) -> None:
        self.removed.append(raft_id)


def spec(name: str = "web", **container: Any) -> ServiceSpec:
    return ServiceSpec(
        name=name, task_template=TaskSpec(container_spec=ContainerSpec(**{"image": "busybox", **container}))
    )


def task_spec(**parts: Any) -> ServiceSpec:
    return ServiceSpec(name="web", task_template=TaskSpec(container_spec=ContainerSpec(image="busybox"), **parts))


GOOD_IMAGES = ("busybox", "busybox:1.2-x_Y", "library/b-b.c__d", "localhost/a", "host:5000/a/b:1", "r.example.com:5/a",
               "a@sha256:" + "0" * 64, "r.example.com/a:1@sha256:" + "0" * 64)  # fmt: skip


async def api(*nodes: Node) -> tuple[Store, Writes, FakeMembers]:
    store, _ = new_store()
    members = FakeMembers()

    def change(batch: Batch) -> None:
        batch.put(
            Cluster(
                id="swarm",
                spec=filled(SwarmSpec()),
                root_ca=RootCA(certificate_pem=b"root"),
                join_tokens=JoinTokens(worker="w0", manager="m0"),
            )
        )
        for node in nodes:
            batch.put(node)

    await store.update(Component.MANAGER, change)
    made = iter(range(1, 100))
    return store, Writes(store, members, lambda root: f"{root.decode()}{next(made)}"), members


BAD_SERVICES: list[tuple[ServiceSpec, str]] = [
    (spec("-web"), "DNS name component"),
    (spec("a" * 64), "63 characters"),
    (spec(image=""), "image reference must be provided"),
    (spec(image="Not An Image"), "not a valid repository/tag"),
    *(
        (spec(image=image), "not a valid repository/tag")
        for image in (
            "UPPER",
            "a:b:c",
            "/a",
            "a//b",
            "a@sha256:12",
            "a:",
            "a/UPPER",
            "host/a:",
            "a-",
            "a..b",
            "a:" + "x" * 129,
        )
    ),
    (spec(env=["=1"]), "environment variable"),
    (spec(mounts=[Mount(type="tmpfs", target="/a")]), 'invalid MountType: "tmpfs"'),
    (spec(mounts=[Mount(type="bind", source="a", target="/a")]), "invalid bind mount source"),
    (spec(mounts=[Mount(source="v", target="a")]), "invalid mount target"),
    (spec(mounts=[Mount(source="/v", target="/a")]), "invalid volume mount source"),
    (spec(mounts=[Mount(source="v", target="/a"), Mount(source="w", target="/a/")]), "duplicate mount point"),
    (
        spec(mounts=[Mount(type="bind", source="/v", target="/a", bind_options=BindOptions(propagation="x"))]),
        "invalid MountPropagation",
    ),
    (spec(stop_grace_period=-1), "stop-grace-period cannot be negative"),
    (replace(spec(), labels={"": "x"}), "Labels"),
    (replace(spec(), mode=ServiceMode(replicated=ReplicatedService(replicas=-1))), "replicas must be non-negative"),
    (
        replace(spec(), mode=ServiceMode(replicated=ReplicatedService(), global_=GlobalService())),
        "only one service mode",
    ),
    (replace(spec(), update_config=UpdateConfig(failure_action="dance")), "failure action"),
    (replace(spec(), update_config=UpdateConfig(delay=-1)), "update-delay cannot be negative"),
    (replace(spec(), update_config=UpdateConfig(parallelism=-1)), "UpdateConfig.Parallelism"),
    (replace(spec(), endpoint_spec=EndpointSpec(mode="x")), "resolution mode"),
    (replace(spec(), endpoint_spec=EndpointSpec(mode="dnsrr", ports=[PortConfig(target_port=1)])), "dnsrr"),
    (replace(spec(), endpoint_spec=EndpointSpec(ports=[PortConfig(target_port=0)])), "TargetPort"),
    (
        replace(spec(), endpoint_spec=EndpointSpec(ports=[PortConfig(target_port=1, published_port=70000)])),
        "PublishedPort",
    ),
    (replace(spec(), endpoint_spec=EndpointSpec(ports=[PortConfig(target_port=1, protocol="ip")])), "protocol"),
    (
        replace(spec(), endpoint_spec=EndpointSpec(ports=[PortConfig(target_port=1, published_port=9)] * 2)),
        "duplicate published",
    ),
    (task_spec(restart_policy=RestartPolicy(condition="maybe")), 'invalid RestartCondition: "maybe"'),
    (task_spec(restart_policy=RestartPolicy(delay=-1)), "restart-delay cannot be negative"),
    (task_spec(placement=Placement(constraints=["node.role"])), "constraint expected one operator"),
    (task_spec(resources=ResourceRequirements(limits=Resources(memory_bytes=5))), "Must be at least 4MiB"),
    (task_spec(resources=ResourceRequirements(reservations=Resources(nano_cpus=5))), "Must be at least 0.001"),
    (task_spec(log_driver=Driver(name="papyrus")), "papyrus"),
]


@pytest.mark.promise(
    "services.create.b6", "services.create.b7", "services.create.b19", "services.create.b20", "services.create.b21",
    "services.update.b7", "services.update.b8", "services.update.b19", "services.update.b20", "services.create.b17",
)  # fmt: skip
@pytest.mark.parametrize(("bad", "words"), BAD_SERVICES)
def test_bad_services_are_refused_by_name(bad: ServiceSpec, words: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=words):
        validate.service_spec(bad)


@pytest.mark.parametrize("image", GOOD_IMAGES)
def test_images_by_any_name(image: str) -> None:
    validate.service_spec(spec(image=image))


def test_a_port_on_the_nodes_of_tasks_alone_is_refused() -> None:
    ports = [PortConfig(target_port=1, publish_mode="host")]
    with pytest.raises(errors.NotSupported, match="PublishMode host"):
        validate.service_spec(replace(spec(), endpoint_spec=EndpointSpec(ports=ports)))


@pytest.mark.parametrize(("target", "kind"), [("host", errors.Forbidden), ("ingress", errors.InvalidArgument)])
def test_networks_that_services_cannot_have(target: str, kind: type[errors.ShoalError]) -> None:
    with pytest.raises(kind, match=target):
        validate.service_spec(replace(spec(), networks=[NetworkAttachmentConfig(target=target)]))


@pytest.mark.promise("services.create.b15", "services.create.b19", "services.update.b16")
def test_defaults_are_canonical_and_stable() -> None:
    once = validate.service_spec(spec())
    assert once.mode.replicated == ReplicatedService(replicas=1)
    assert once.endpoint_spec == EndpointSpec(mode="vip")
    assert validate.service_spec(once) == once


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        (SwarmSpec(name="other"), errors.InvalidArgument, 'must be named "default"'),
        (
            SwarmSpec(name="default", task_defaults=TaskDefaults(log_driver=Driver(name="none"))),
            errors.NotSupported,
            "TaskDefaults",
        ),
        (
            SwarmSpec(name="default", raft=RaftConfig(heartbeat_tick=3, election_tick=2)),
            errors.InvalidArgument,
            "ElectionTick",
        ),
        (SwarmSpec(name="default", ca_config=CAConfig(node_cert_expiry=5)), errors.InvalidArgument, "1h0m0s"),
        (
            SwarmSpec(name="default", ca_config=CAConfig(external_cas=[ExternalCA(protocol="x")])),
            errors.InvalidArgument,
            "protocol",
        ),
        (
            SwarmSpec(name="default", ca_config=CAConfig(external_cas=[ExternalCA(protocol="cfssl")])),
            errors.InvalidArgument,
            "invalid URL",
        ),
    ],
)
def test_bad_swarm_specs(bad: SwarmSpec, kind: type[errors.ShoalError], words: str) -> None:
    with pytest.raises(kind, match=words):
        validate.swarm_spec(bad)


async def test_service_life_and_its_errors() -> None:
    store, writes, _ = await api()
    service_id = await writes.create_service(ops.CreateService(spec=spec(), auth="login"))
    with pytest.raises(errors.Conflict, match="name conflicts with an existing object: service web already exists"):
        await writes.create_service(ops.CreateService(spec=spec()))
    service = find_service(store.view(), "web")
    assert service.id == find_service(store.view(), service_id[:6]).id == service_id
    with pytest.raises(errors.OutOfSequence, match="update out of sequence"):
        await writes.update_service(ops.UpdateService(ref="web", spec=spec(), version=service.meta.version - 1))
    with pytest.raises(errors.NotSupported, match="renaming"):
        await writes.update_service(ops.UpdateService(ref="web", spec=spec("other"), version=service.meta.version))
    changed = replace(spec(), mode=ServiceMode(global_=GlobalService()))
    with pytest.raises(errors.NotSupported, match="mode change"):
        await writes.update_service(ops.UpdateService(ref="web", spec=changed, version=service.meta.version))
    await writes.update_service(ops.UpdateService(ref="web", spec=spec(image="x"), version=service.meta.version))
    updated = find_service(store.view(), "web")
    assert updated.previous_spec == service.spec
    assert updated.registry_auth == "login"
    assert updated.spec_version == updated.meta.version > service.spec_version
    await writes.remove_service(ops.RemoveService(ref="web"))
    with pytest.raises(errors.NotFound, match="service web not found"):
        await writes.remove_service(ops.RemoveService(ref="web"))


async def test_a_service_without_a_name_gets_one() -> None:
    store, writes, _ = await api()
    service_id = await writes.create_service(ops.CreateService(spec=spec("")))
    service = store.view().get(Service, service_id)
    assert service is not None
    assert "_" in service.spec.name


async def test_a_published_port_has_one_owner() -> None:
    _, writes, _ = await api()
    port = EndpointSpec(ports=[PortConfig(target_port=80, published_port=8080)])
    await writes.create_service(ops.CreateService(spec=replace(spec("a"), endpoint_spec=port)))
    with pytest.raises(errors.InvalidArgument, match="port '8080' is already in use by service 'a'"):
        await writes.create_service(ops.CreateService(spec=replace(spec("b"), endpoint_spec=port)))
    udp = EndpointSpec(ports=[PortConfig(target_port=80, published_port=8080, protocol="udp")])
    await writes.create_service(ops.CreateService(spec=replace(spec("c"), endpoint_spec=udp)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (NodeSpec(availability="active"), 'invalid Role: ""'),
        (NodeSpec(role="worker"), 'invalid Availability: ""'),
        (NodeSpec(role="boss", availability="active"), 'invalid Role: "boss"'),
        (NodeSpec(role="worker", availability="asleep"), 'invalid Availability: "asleep"'),
    ],
)
@pytest.mark.promise("nodes.update.b2", "nodes.update.b3", "nodes.update.b6", "nodes.update.b7")
async def test_bad_node_specs(given: NodeSpec, words: str) -> None:
    _, writes, _ = await api(make.node("n1"))
    with pytest.raises(errors.InvalidArgument, match=words):
        await writes.update_node(ops.UpdateNode(ref="n1", spec=given, version=1))


@pytest.mark.promise("nodes.update.b1", "nodes.update.b4", "nodes.update.b5")
async def test_a_node_update_replaces_the_whole_spec() -> None:
    store, writes, _ = await api(make.node("n1", labels={"a": "b"}))
    node = find_node(store.view(), "n1")
    with pytest.raises(errors.OutOfSequence):
        await writes.update_node(ops.UpdateNode(ref="n1", spec=node.spec, version=node.meta.version + 1))
    new = NodeSpec(role="worker", availability="drain")
    await writes.update_node(ops.UpdateNode(ref="n1", spec=new, version=node.meta.version))
    assert find_node(store.view(), "n1").spec == new


async def test_the_last_manager_stays_one_and_so_does_a_quorum() -> None:
    lone = make.node("m1", role="manager", manager_status=ManagerStatus(raft_id=1, addr="a"))
    store, writes, members = await api(lone)
    demoted = NodeSpec(role="worker", availability="active")
    with pytest.raises(errors.InvalidArgument, match="demote the last manager"):
        await writes.update_node(ops.UpdateNode(ref="m1", spec=demoted, version=1))
    other = make.node("m2", role="manager", manager_status=ManagerStatus(raft_id=2, addr="b"))
    await store.update(Component.MANAGER, lambda batch: batch.put(other))
    members.safe = False
    with pytest.raises(errors.InvalidArgument, match="loss of quorum"):
        await writes.update_node(ops.UpdateNode(ref="m1", spec=demoted, version=1))


@pytest.mark.promise("nodes.remove.b2", "nodes.remove.b4")
async def test_node_removal() -> None:
    manager = make.node("m1", role="manager", manager_status=ManagerStatus(raft_id=7, addr="a"))
    store, writes, members = await api(make.node("n1"), make.node("n2", state=NodeState.DOWN), manager)
    with pytest.raises(errors.InvalidArgument, match="node n1 is not down and can't be removed"):
        await writes.remove_node(ops.RemoveNode(ref="n1"))
    with pytest.raises(errors.InvalidArgument, match="must be demoted"):
        await writes.remove_node(ops.RemoveNode(ref="m1"))
    await writes.remove_node(ops.RemoveNode(ref="n2"))
    await writes.remove_node(ops.RemoveNode(ref="n1", force=True))
    await writes.remove_node(ops.RemoveNode(ref="m1", force=True))
    assert members.removed == [7]
    assert store.view().all(Node) == []
    cluster = store.view().cluster()
    assert cluster is not None
    assert cluster.removed_nodes == ["n2", "n1", "m1"]
    with pytest.raises(errors.NotFound, match="node n1 not found"):
        await writes.remove_node(ops.RemoveNode(ref="n1"))


@pytest.mark.promise("swarm.update.b3", "swarm.update.b4")
async def test_tokens_rotate_one_by_one() -> None:
    store, writes, _ = await api()

    async def rotate(**which: bool) -> JoinTokens:
        cluster = store.view().cluster()
        assert cluster is not None
        await writes.update_cluster(ops.UpdateCluster(spec=cluster.spec, version=cluster.meta.version, **which))
        after = store.view().cluster()
        assert after is not None
        return after.join_tokens

    assert await rotate() == JoinTokens(worker="w0", manager="m0")
    assert await rotate(rotate_worker_token=True) == JoinTokens(worker="root1", manager="m0")
    assert await rotate(rotate_manager_token=True) == JoinTokens(worker="root1", manager="root2")
    with pytest.raises(errors.OutOfSequence):
        await writes.update_cluster(ops.UpdateCluster(spec=SwarmSpec(), version=1))


@pytest.mark.promise(
    "services.list.query.filters.id", "services.list.query.filters.label", "services.list.query.filters.name",
    "nodes.list.query.filters.id", "nodes.list.query.filters.label", "nodes.list.query.filters.name",
    "nodes.list.query.filters.role", "nodes.list.query.filters.membership",
    "nodes.list.b3", "nodes.list.b4", "nodes.list.b5", "nodes.list.b6", "nodes.list.b7",
)  # fmt: skip
async def test_filters_of_nodes_and_services() -> None:
    description = make.node("x").description
    assert description is not None
    labelled = replace(description, hostname="other", engine=replace(description.engine, labels={"disk": "ssd"}))
    store, writes, _ = await api(make.node("n1"), replace(make.node("n2", role="manager"), description=labelled))
    await writes.create_service(ops.CreateService(spec=replace(spec("web"), labels={"tier": "front"})))
    await writes.create_service(ops.CreateService(spec=spec("db")))
    view = store.view()

    def nodes(**filters: list[str]) -> list[str]:
        return [node.id for node in list_nodes(view, filters)]

    def services(**filters: list[str]) -> list[str]:
        return [service.spec.name for service in list_services(view, filters)]

    assert nodes() == ["n1", "n2"]
    assert nodes(id=["n2"]) == nodes(name=["other"]) == nodes(label=["disk=ssd"]) == nodes(role=["manager"]) == ["n2"]
    assert nodes(label=["disk"]) == ["n2"]
    assert nodes(label=["disk=hdd"]) == nodes(membership=["pending"]) == nodes(role=["manager"], id=["n1"]) == []
    assert nodes(membership=["accepted"]) == nodes(role=["manager", "worker"]) == ["n1", "n2"]
    assert services(name=["we"]) == services(label=["tier=front"]) == services(label=["tier"]) == ["web"]
    assert services(id=[view.all(Service)[1].id]) == ["db"]
    for bad in ({"role": ["x"]}, {"membership": ["x"]}, {"wonder": ["x"]}):
        with pytest.raises(errors.InvalidArgument):
            list_nodes(view, bad)


@pytest.mark.promise(
    "tasks.list.b3", "tasks.list.b4", "tasks.list.b5", "tasks.list.b6", "tasks.list.b7", "tasks.list.b8",
    "tasks.list.query.filters.id", "tasks.list.query.filters.name", "tasks.list.query.filters.service",
    "tasks.list.query.filters.node", "tasks.list.query.filters.label", "tasks.list.query.filters.desired-state",
)  # fmt: skip
async def test_filters_of_tasks() -> None:
    store, writes, _ = await api(make.node("n1"), make.node("n2"))
    await writes.create_service(ops.CreateService(spec=spec("web")))
    service = find_service(store.view(), "web")
    tasks = [
        replace(make.task(service, 1, on="n1"), labels={"tier": "front"}),
        make.task(service, 2, on="n2", desired=make.TaskState.SHUTDOWN),
    ]
    fresh = [
        replace(task, meta=type(task.meta)(), status=replace(task.status, state=make.TaskState.NEW)) for task in tasks
    ]
    await store.update(Component.ORCHESTRATOR, lambda batch: [batch.put(task) for task in fresh])
    view = store.view()

    def found(self_id: str = "", **filters: list[str]) -> list[int]:
        return [
            task.slot
            for task in list_tasks(view, {name.replace("_", "-"): given for name, given in filters.items()}, self_id)
        ]

    assert found() == found(service=["web"]) == found(service=[service.id]) == [1, 2]
    assert found(id=[tasks[0].id]) == found(name=["web.1"]) == found(node=["n1"]) == found(node=["host-n1"]) == [1]
    assert found(label=["tier"]) == found(label=["tier=front"]) == found(desired_state=["running"]) == [1]
    assert found(desired_state=["shutdown"]) == found("n2", node=["self"]) == [2]
    assert found(desired_state=["accepted"]) == found(label=["tier=back"]) == []
    with pytest.raises(errors.NotFound, match="service nosuch not found"):
        found(service=["nosuch"])
    with pytest.raises(errors.InvalidArgument, match="desired-state"):
        found(desired_state=["sleeping"])


async def test_ambiguous_references_are_refused() -> None:
    same = make.node("x").description
    store, _, _ = await api(replace(make.node("ab1"), description=same), replace(make.node("ab2"), description=same))
    for ref in ("ab", "host-x"):
        with pytest.raises(errors.InvalidArgument, match="ambiguous"):
            find_node(store.view(), ref)


def test_reachability_is_what_the_leader_says() -> None:
    node = make.node("m", manager_status=ManagerStatus(raft_id=5, addr="a"))

    def status(members: ops.Members) -> tuple[bool, str]:
        shown = with_reachability(node, members).manager_status
        assert shown is not None
        return shown.leader, shown.reachability

    assert status({"5": ops.MemberState(leader=True, reachable=True)}) == (True, "reachable")
    assert status({"5": ops.MemberState()}) == (False, "unreachable")
    assert status({}) == (False, "unknown")
    assert with_reachability(make.node("w"), {}).manager_status is None


def test_every_operation_survives_the_wire() -> None:
    for kind in ops.OPERATIONS:
        assert ops.BY_NAME[kind.__name__] is kind
    sent = ops.UpdateService(ref="web", spec=spec(), version=3, auth="x")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=ops.UpdateService) == sent
