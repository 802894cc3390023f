"""Networks of the swarm: what is allocated, what nodes are told, and when an order to stop has to wait."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from api import errors
from api.types.objects import (
    Cluster,
    Endpoint,
    Meta,
    NetworkAttachment,
    Node,
    NodeState,
    NodeStatus,
    Service,
    SwarmNetwork,
    Task,
    TaskState,
    TaskStatus,
    VirtualIP,
)
from api.types.swarm import (
    Driver,
    EndpointSpec,
    IPAMOptions,
    IPAMPool,
    NetworkAttachmentConfig,
    NetworkSpec,
    PortConfig,
    ServiceSpec,
    TaskSpec,
)
from manager.allocator.loop import Allocator
from manager.allocator.networks import Addresses, Exhausted, allocate_network, attach, with_virtual_ips
from manager.controlapi import networks as control
from manager.dispatcher.draining import HOLD_S, LINGER_S, SETTLE_S, Draining
from manager.dispatcher.networks import NetworkTruth, NodeNetworks, network_difference
from manager.dispatcher.orders import Orders
from manager.store.store import Batch, Store
from manager.store.transitions import Component
from tests.unit.manager.test_store import new_store


def network(network_id: str = "net", subnet: str = "10.1.0.0/29", **more: Any) -> SwarmNetwork:
    pool = IPAMPool(subnet=subnet, gateway=subnet.replace(".0/", ".1/").partition("/")[0])
    return SwarmNetwork(id=network_id, spec=NetworkSpec(name=network_id, **more), vni=300, pools=[pool])


def node(node_id: str, addr: str, state: NodeState = NodeState.READY) -> Node:
    return Node(id=node_id, status=NodeStatus(state=state, addr=addr))


def task(task_id: str, address: str, node_id: str = "n1", state: TaskState = TaskState.RUNNING, **more: Any) -> Task:
    return Task(
        id=task_id,
        service_id="svc",
        service_name="web",
        slot=1,
        node_id=node_id,
        status=TaskStatus(state=state),
        networks=[NetworkAttachment(network_id="net", addresses=[f"{address}/29"])],
        **more,
    )


def service(vip: str = "10.1.0.2", **labels: str) -> Service:
    template = TaskSpec(networks=[NetworkAttachmentConfig(target="net", aliases=["w"])])
    endpoint = Endpoint(virtual_ips=[VirtualIP(network_id="net", addr=f"{vip}/29")])
    return Service(id="svc", spec=ServiceSpec(name="web", task_template=template, labels=labels), endpoint=endpoint)


# --- allocation ---------------------------------------------------------------------------------------------------


def test_a_network_gets_a_free_id_and_a_pool_clear_of_others_and_of_the_nodes() -> None:
    taken = network("a", "10.0.1.0/24")
    made = allocate_network(SwarmNetwork(id="b", spec=NetworkSpec(name="b")), [taken], [node("n1", "10.0.0.7")], 300)
    assert isinstance(made, SwarmNetwork)
    assert (made.vni, [pool.subnet for pool in made.pools]) == (301, ["10.0.2.0/24"])
    assert made.pools[0].gateway == "10.0.2.1"


def test_a_pool_that_cannot_be_is_said() -> None:
    spec = NetworkSpec(name="b", ipam_options=IPAMOptions(configs=[IPAMPool(subnet="10.0.1.0/31")]))
    assert isinstance(allocate_network(SwarmNetwork(id="b", spec=spec), [], []), errors.InvalidArgument)


def test_every_address_is_given_out_once_and_rests_before_it_comes_again() -> None:
    last: dict[str, int] = {}
    addresses = Addresses([network()], [service()], [], [], last)
    given = [addresses.take("net") for _ in range(5)]
    assert given == ["10.1.0.3/29", "10.1.0.4/29", "10.1.0.5/29", "10.1.0.6/29", Exhausted("net")]
    freed = Addresses([network()], [service()], [task("t", "10.1.0.6")], [], {"net": last["net"] - 2})
    assert freed.take("net") == "10.1.0.5/29", "behind the last one first"
    assert freed.take("net") == "10.1.0.3/29", "then from the start"


def test_an_ended_task_holds_no_address() -> None:
    ended = [task(f"t{number}", f"10.1.0.{number}", state=TaskState.FAILED) for number in (3, 4, 5, 6)]
    assert Addresses([network()], [service()], ended, []).take("net") == "10.1.0.3/29"


def test_a_service_keeps_its_virtual_address_and_has_none_in_dnsrr_mode() -> None:
    addresses = Addresses([network(), network("other", "10.2.0.0/29")], [service()], [], [])
    endpoint = with_virtual_ips(service().endpoint or Endpoint(), ["net", "other"], addresses)
    assert isinstance(endpoint, Endpoint)
    assert [vip.addr for vip in endpoint.virtual_ips] == ["10.1.0.2/29", "10.2.0.2/29"]
    round_robin = with_virtual_ips(Endpoint(mode="dnsrr"), ["net"], addresses)
    assert isinstance(round_robin, Endpoint)
    assert round_robin.virtual_ips == []


def test_a_task_is_on_every_network_or_on_none() -> None:
    small = Addresses([network(), network("full", "10.2.0.0/30")], [], [], [])
    assert small.take("full") == "10.2.0.2/30"
    wanted = {name: NetworkAttachmentConfig(target=name) for name in ("net", "full")}
    assert attach(wanted, small) == Exhausted("full")


async def fill(store: Store, *items: Any, component: Component = Component.CONTROL_API) -> None:
    def change(batch: Batch) -> None:
        for item in items:
            batch.put(item)

    await store.update(component, change)


async def test_the_loop_allocates_the_ingress_network_services_gates_and_tasks() -> None:
    store, _ = new_store()
    ports = EndpointSpec(ports=[PortConfig(target_port=80, published_port=8080)])
    template = TaskSpec(networks=[NetworkAttachmentConfig(target="net")])
    wanted = SwarmNetwork(id="net", spec=NetworkSpec(name="net"))
    made = Service(id="svc", spec=ServiceSpec(name="web", endpoint_spec=ports, task_template=template))
    await fill(store, Cluster(id="c"), node("n1", "192.168.0.1"), wanted, made)
    await fill(store, Task(id="t", service_id="svc"), component=Component.ORCHESTRATOR)
    await Allocator(store).allocate()
    view = store.view()
    ingress = view.network_named("ingress")
    assert ingress is not None
    assert ingress.pools[0].subnet == "10.255.0.0/16"
    (gate,) = (view.get(Node, "n1") or node("", "")).attachments
    allocated, placed = view.get(Service, "svc"), view.get(Task, "t")
    assert allocated is not None
    assert allocated.endpoint is not None
    assert placed is not None
    assert {vip.network_id for vip in allocated.endpoint.virtual_ips} == {"net", ingress.id}
    assert [place.network_id for place in placed.networks] == [ingress.id, "net"]
    assert placed.status.state is TaskState.PENDING
    given = [*gate.addresses, *(vip.addr for vip in allocated.endpoint.virtual_ips)]
    given += [address for place in placed.networks for address in place.addresses]
    assert len(set(given)) == 5


async def test_a_task_without_an_address_says_so_and_is_placed_when_one_is_freed() -> None:
    store, _ = new_store()
    await fill(store, Cluster(id="c"), network(subnet="10.1.0.0/30"), msgspec.structs.replace(service(), endpoint=None))
    await fill(store, Task(id="t", service_id="svc"), component=Component.ORCHESTRATOR)
    allocator = Allocator(store)
    await allocator.allocate()
    waiting = store.view().get(Task, "t")
    assert waiting is not None
    assert waiting.status.state is TaskState.NEW
    assert waiting.status.err == "no available IPv4 addresses on network net"
    current = store.view().get(Service, "svc")
    assert current is not None
    round_robin = msgspec.structs.replace(current.spec, endpoint_spec=EndpointSpec(mode="dnsrr"))
    await fill(store, msgspec.structs.replace(current, spec=round_robin))
    await allocator.allocate()  # gives the virtual address up
    await allocator.allocate()
    placed = store.view().get(Task, "t")
    assert placed is not None
    assert (placed.status.state, placed.status.err) == (TaskState.PENDING, "")
    assert placed.networks[0].addresses == ["10.1.0.2/30"]


# --- what users may ask for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        (NetworkSpec(name=" "), errors.InvalidArgument, "name is empty"),
        (NetworkSpec(name="ingress"), errors.Forbidden, "predefined ingress network"),
        (NetworkSpec(name="n", driver_configuration=Driver(name="weave")), errors.NotFound, 'plugin "weave" not found'),
        (
            NetworkSpec(name="n", driver_configuration=Driver(name="overlay", options={"encrypted": ""})),
            errors.NotSupported,
            "encrypted",
        ),
        (
            NetworkSpec(name="n", ipam_options=IPAMOptions(configs=[IPAMPool(gateway="10.0.0.1")])),
            errors.InvalidArgument,
            "need a Subnet",
        ),
        (
            NetworkSpec(name="n", ipam_options=IPAMOptions(configs=[IPAMPool(subnet="10.0.0.1/24")])),
            errors.InvalidArgument,
            "it should be 10.0.0.0/24",
        ),
    ],
)
def test_networks_that_cannot_be(spec: NetworkSpec, kind: type[errors.ShoalError], words: str) -> None:
    with pytest.raises(kind, match=words):
        control.network_spec(spec)


async def test_names_pools_and_use_are_checked_against_the_swarm() -> None:
    store, _ = new_store()
    await fill(store, network(), service())
    view = store.view()
    with pytest.raises(errors.Conflict, match="network with name net already exists"):
        control.check_new(view, NetworkSpec(name="net"))
    overlapping = NetworkSpec(name="n", ipam_options=IPAMOptions(configs=[IPAMPool(subnet="10.1.0.0/16")]))
    with pytest.raises(errors.Forbidden, match="Pool overlaps"):
        control.check_new(view, overlapping)
    with pytest.raises(errors.Forbidden, match="network net is in use by service svc"):
        control.check_unused(view, network())
    with pytest.raises(errors.NotFound, match="network nosuch not found"):
        control.find_network(view, "nosuch")


async def test_a_mesh_that_is_not_offered_is_refused() -> None:
    store, _ = new_store()
    with pytest.raises(errors.NotSupported, match="PROXY protocol is not offered"):
        control.with_networks(store.view(), ServiceSpec(name="s", labels={"shoal.mesh": "proxy"}))
    with pytest.raises(errors.InvalidArgument, match="'lokal' is not local"):
        control.with_networks(store.view(), ServiceSpec(name="s", labels={"shoal.mesh": "lokal"}))
    assert control.with_networks(store.view(), ServiceSpec(name="s", labels={"shoal.mesh": "local"})).name == "s"


async def test_both_places_of_a_service_s_networks_mean_the_same() -> None:
    store, _ = new_store()
    await fill(store, network(), network("two", "10.2.0.0/29"))
    old_place = ServiceSpec(name="s", networks=[NetworkAttachmentConfig(target="net", aliases=["a"])])
    found = control.with_networks(store.view(), old_place)
    assert (found.networks, found.task_template.networks) == (
        [],
        [NetworkAttachmentConfig(target="net", aliases=["a"])],
    )
    assert control.with_networks(store.view(), found) == found


# --- what nodes are told ------------------------------------------------------------------------------------------


async def told(*tasks: Task, nodes: tuple[Node, ...] = ()) -> tuple[Store, NetworkTruth]:
    store, _ = new_store()
    await fill(store, network(), service(), *(nodes or (node("n1", "192.168.0.1"), node("n2", "192.168.0.2"))))
    for each in tasks:  # the store lets tasks in only as new ones
        store._memory.rows["tasks"].put(each)
    truth = NetworkTruth()
    truth.refresh(store.view(), None)
    return store, truth


def wanted(truth: NetworkTruth, store: Store, node_id: str) -> NodeNetworks:
    return truth.wanted(store.view(), truth.needs(store.view(), node_id))


async def test_a_node_is_told_of_the_networks_of_its_tasks_alone() -> None:
    store, truth = await told(task("t", "10.1.0.3"))
    here, there = wanted(truth, store, "n1"), wanted(truth, store, "n2")
    assert list(here.networks) == ["net"]
    assert there == NodeNetworks()
    (entry,) = here.services.values()
    assert (entry.name, entry.vip, entry.aliases) == ("web", "10.1.0.2", ["w"])
    assert [(each.address, each.node, each.serving) for each in entry.tasks] == [("10.1.0.3", "192.168.0.1", True)]


@pytest.mark.parametrize(
    ("state", "desired", "node_state", "present", "serving"),
    [
        (TaskState.RUNNING, TaskState.RUNNING, NodeState.READY, True, True),
        (TaskState.STARTING, TaskState.RUNNING, NodeState.READY, True, False),
        (TaskState.RUNNING, TaskState.SHUTDOWN, NodeState.READY, True, False),
        (TaskState.RUNNING, TaskState.RUNNING, NodeState.DOWN, True, False),
        (TaskState.PENDING, TaskState.RUNNING, NodeState.READY, False, False),
        (TaskState.FAILED, TaskState.RUNNING, NodeState.READY, False, False),
        (TaskState.ORPHANED, TaskState.SHUTDOWN, NodeState.READY, False, False),
    ],
)
async def test_only_running_tasks_that_are_meant_to_serve(
    state: TaskState, desired: TaskState, node_state: NodeState, present: bool, serving: bool
) -> None:
    other = task("t", "10.1.0.4", "n2", state, desired_state=desired)
    nodes = (node("n1", "192.168.0.1"), node("n2", "192.168.0.2", node_state))
    store, truth = await told(task("mine", "10.1.0.3"), other, nodes=nodes)
    (entry,) = wanted(truth, store, "n1").services.values()
    found = {each.id: each.serving for each in entry.tasks}
    assert found == ({"mine": True, "t": serving} if present else {"mine": True})


async def test_differences_lead_from_what_was_sent_to_what_is_wanted() -> None:
    store, truth = await told(task("t", "10.1.0.3"))
    sent = wanted(truth, store, "n1")
    assert network_difference(NodeNetworks(), sent) == (
        list(sent.networks.values()),
        [],
        list(sent.services.values()),
        [],
    )
    assert network_difference(sent, sent) == ([], [], [], [])
    assert network_difference(sent, NodeNetworks()) == ([], ["net"], [], []), "services go with their network"
    version = truth.version
    truth.refresh(store.view(), [])
    assert truth.version == version


# --- draining -----------------------------------------------------------------------------------------------------


def stop(of: Task) -> Task:
    return msgspec.structs.replace(of, desired_state=TaskState.SHUTDOWN, meta=Meta(version=20))


def test_an_order_to_stop_waits_until_every_node_has_the_change() -> None:
    draining = Draining(-SETTLE_S)
    first, second = draining.open("n1"), draining.open("n2")
    running = task("t", "10.1.0.3")
    for progress in (first, second):
        progress.looked, progress.sent = 20, 20
    assert draining.holds(running, stop(running), 0.0, ["n1", "n2"])
    draining.acknowledge("n1", 20)
    assert draining.holds(running, stop(running), 0.1, ["n1", "n2"])
    draining.acknowledge("n2", 25)
    assert draining.holds(running, stop(running), 0.2, ["n1", "n2"]), "packets are on their way"
    assert not draining.holds(running, stop(running), 0.2 + LINGER_S, ["n1", "n2"])


def test_a_node_that_hangs_or_leaves_is_not_waited_for_long() -> None:
    draining = Draining(0.0)
    progress = draining.open("n1")
    running = task("t", "10.1.0.3")
    assert draining.holds(running, stop(running), 10.0, ["n1"])
    assert not draining.holds(running, stop(running), 10.0 + HOLD_S, ["n1"])
    other = task("u", "10.1.0.4")
    assert draining.holds(other, stop(other), 20.0, ["n1"])
    draining.close("n1", progress)
    assert draining.holds(other, stop(other), 20.0, ["n1"]), "it may be back at once"
    assert draining.holds(other, stop(other), 20.1, []), "it is down"
    assert not draining.holds(other, stop(other), 20.1 + LINGER_S, [])


def test_a_new_leader_waits_for_the_nodes_to_come_to_it() -> None:
    draining = Draining(100.0)
    here = draining.open("n1")
    here.looked = here.sent = here.acknowledged = 20
    running = task("t", "10.1.0.3")
    assert draining.holds(running, stop(running), 100.1, ["n1", "n2"])
    came = draining.open("n2")
    came.looked = came.sent = 21
    assert draining.holds(running, stop(running), 102.0, ["n1", "n2"])
    draining.acknowledge("n2", 21)
    assert draining.holds(running, stop(running), 102.1, ["n1", "n2"])
    assert not draining.holds(running, stop(running), 102.1 + LINGER_S, ["n1", "n2"])
    other = task("u", "10.1.0.4")
    assert draining.holds(other, stop(other), 100.0, ["n1", "n2", "n3"])
    assert not draining.holds(other, stop(other), 100.0 + SETTLE_S, ["n1", "n2", "n3"]), "n3 is dead"


def test_tasks_that_serve_nobody_are_stopped_at_once() -> None:
    draining = Draining(0.0)
    draining.open("n1")
    alone = msgspec.structs.replace(task("t", "10.1.0.3"), networks=[])
    starting = task("t", "10.1.0.3", state=TaskState.STARTING)
    assert not draining.holds(alone, stop(alone), 0.0, ["n1"])
    assert not draining.holds(starting, stop(starting), 0.0, ["n1"])
    assert not draining.holds(None, stop(starting), 0.0, ["n1"])


async def test_the_first_message_holds_orders_to_stop_back_too() -> None:
    """As after a change of the leader: the task serves, and was to end when the last one died."""
    ending = task("t", "10.1.0.3", desired_state=TaskState.SHUTDOWN)
    over = task("u", "10.1.0.4", state=TaskState.FAILED, desired_state=TaskState.SHUTDOWN)
    store, truth = await told(ending, over)
    draining = Draining(100.0)
    orders = Orders("n1", truth, draining)
    first = orders.complete(store.view(), 100.0)
    assert {each.id: each.desired_state for each in first.update_tasks} == {
        "t": TaskState.RUNNING, "u": TaskState.SHUTDOWN,
    }  # fmt: skip
    (entry,) = first.update_services
    assert [each.serving for each in entry.tasks] == [False], "it has left the tables already"
    assert orders.held
    assert orders.next(store.view(), 101.0) == []
    for node_id in ("n1", "n2"):
        progress = draining.open(node_id)
        progress.looked = progress.sent = progress.acknowledged = store.view().index
    assert orders.next(store.view(), 101.1) == []
    (change,) = orders.next(store.view(), 101.1 + LINGER_S)
    assert [(each.id, each.desired_state) for each in change.update_tasks] == [("t", TaskState.SHUTDOWN)]
    assert not orders.held
