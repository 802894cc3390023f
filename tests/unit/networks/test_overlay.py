"""What a host makes of what it was told: names, peers, backends; the text of the tables; and where ports lead."""

from __future__ import annotations

import socket
import struct
from functools import partial

import pytest

from api import errors
from api.types.dataplane import (
    Overlay,
    OverlayChange,
    OverlayGate,
    OverlayPool,
    OverlayPort,
    OverlayService,
    OverlayTask,
)
from api.types.endpoint import EndpointIPAMConfig, EndpointSettings
from worker.engine.networks import balancing, planning, vxlan
from worker.engine.networks.conntrack import forget_backends
from worker.engine.networks.guard import kinds
from worker.engine.networks.mesh import gate_targets, host_targets, udp_gone
from worker.engine.networks.nft import Context, apply_here
from worker.engine.networks.overlays import record_of
from worker.engine.networks.overlaystate import OverlayState, changed_backends
from worker.engine.networks.rtnl import RouteSocket
from worker.engine.syscalls import netns

HERE, THERE = "192.168.0.1", "192.168.0.2"


def overlay(network_id: str = "net", **more: object) -> Overlay:
    pools = [
        OverlayPool(subnet="10.1.0.0/24", gateway="10.1.0.1"),
        OverlayPool(subnet="10.2.0.0/24", gateway="10.2.0.1"),
    ]
    return Overlay(id=network_id, name=network_id, vni=300, pools=pools, local=HERE, **more)  # type: ignore[arg-type]


def task(number: int, node: str = HERE, *, serving: bool = True) -> OverlayTask:
    return OverlayTask(
        id=f"t{number}", name=f"web.{number}.t{number}", address=f"10.1.0.{number}", node=node, serving=serving,
        container_id=f"{number}" * 64,
    )  # fmt: skip


def service(*tasks: OverlayTask, network_id: str = "net", vip: str = "10.1.0.2", name: str = "web") -> OverlayService:
    ports = [OverlayPort(protocol="tcp", published=8080, target=80)]
    return OverlayService(
        network_id=network_id, id=name, name=name, vip=vip, aliases=["www"], tasks=list(tasks), ports=ports
    )


def state(*services: OverlayService, networks: tuple[Overlay, ...] = ()) -> OverlayState:
    made = OverlayState()
    made.apply(
        OverlayChange(index=5, complete=True, update=list(networks or (overlay(),)), update_services=list(services))
    )
    return made


def test_names_lead_to_what_serves() -> None:
    names = state(service(task(3), task(4, THERE), task(5, serving=False))).names
    assert names.lookup("net", "WEB") == ["10.1.0.2"]
    assert names.lookup("net", "www") == ["10.1.0.2"]
    assert names.lookup("net", "tasks.web") == ["10.1.0.3", "10.1.0.4"]
    assert names.lookup("net", "web.4.t4") == ["10.1.0.4"]
    assert names.lookup("net", "4" * 12) == ["10.1.0.4"]
    assert names.lookup("net", "web.5.t5") is None, "not running: nobody's name"
    assert names.lookup("other", "web") is None
    assert names.reverse("net", "10.1.0.2") == "web"
    assert names.reverse("net", "10.1.0.5") == "web.5.t5"


def test_a_known_name_without_tasks_is_an_empty_answer() -> None:
    names = state(service(vip="")).names
    assert names.lookup("net", "web") == []
    assert names.lookup("net", "tasks.web") == []


def test_an_increment_changes_what_it_names_and_nothing_else() -> None:
    held = state(service(task(3)), service(task(6), name="db", vip="10.1.0.9"))
    effect = held.apply(OverlayChange(index=6, update_services=[service(task(3), task(4, THERE))]))
    assert effect.touched == {"net"}
    assert changed_backends(effect, ["net"]) == ({"10.1.0.2": ("10.1.0.3",)}, {"10.1.0.2": ("10.1.0.3", "10.1.0.4")})
    assert changed_backends(effect, ["other"]) == ({}, {})
    assert held.backends(["net"]) == {"10.1.0.2": ("10.1.0.3", "10.1.0.4"), "10.1.0.9": ("10.1.0.6",)}
    assert held.peers("net") == {"10.1.0.4": THERE}
    assert not held.apply(OverlayChange(index=7, update_services=[service(task(3), task(4, THERE))]))
    assert held.index == 7


def test_what_a_complete_message_leaves_out_is_gone() -> None:
    held = state(service(task(3)), networks=(overlay(), overlay("two")))
    effect = held.apply(OverlayChange(index=9, complete=True, update=[overlay("two")]))
    assert set(effect.removed) == {"net"}
    assert held.names.lookup("net", "web") is None
    assert (list(held.networks), dict(held.services)) == (["two"], {})


def test_services_go_with_their_network_and_strays_are_not_taken_in() -> None:
    held = state(service(task(3)))
    assert held.apply(OverlayChange(index=6, remove=["net"])).services == [(service(task(3)), None)]
    assert not held.apply(OverlayChange(index=7, update_services=[service(task(3))]))


def test_gates_of_other_nodes_are_peers() -> None:
    ingress = overlay(ingress=True, gates=[OverlayGate(address="10.1.0.40", node=THERE)])
    assert state(networks=(ingress,)).peers("net") == {"10.1.0.40": THERE}


def test_only_a_task_of_this_host_may_take_its_address() -> None:
    held = state(service(task(3), task(4, THERE)))
    assert held.assigned("net", "web.3.t3", "10.1.0.3") is not None
    assert held.assigned("net", "web.3.t3", "10.1.0.4") is None
    assert held.assigned("net", "web.4.t4", "10.1.0.4") is None, "that one is elsewhere"


def test_a_place_on_an_overlay_is_at_the_given_address() -> None:
    record = record_of(overlay())
    settings = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.2.0.7"))
    made = planning.overlay_endpoint(record, settings, "e" * 64, "/web.1.x", "c" * 64, "eth0")
    assert (made.address, made.prefix_len, made.mac) == ("10.2.0.7", 24, "02:42:0a:02:00:07")
    assert made.routes == (("10.1.0.0/24", "10.2.0.1"),), "the other subnet is reached by the gateway"
    assert made.gateway == ""
    for wish in ("", "10.3.0.7"):
        settings = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address=wish))
        with pytest.raises(errors.Forbidden, match="not manually attachable"):
            planning.overlay_endpoint(record, settings, "e" * 64, "/web.1.x", "c" * 64, "eth0")


# --- the routing mesh -----------------------------------------------------------------------------------------------


def test_a_port_leads_to_tasks_of_the_host_first_and_to_the_gate_else() -> None:
    one = service(task(3), task(4, THERE))
    assert host_targets([one], {"web.3.t3": "172.18.0.5"}, "172.18.0.2") == {("tcp", 8080): [("172.18.0.5", 80)]}
    assert host_targets([one], {}, "172.18.0.2") == {("tcp", 8080): [("172.18.0.2", 8080)]}
    assert host_targets([one], {}, "") == {("tcp", 8080): []}, "no gate yet: refused, never lost"
    assert gate_targets([one]) == {("tcp", 8080): [("10.1.0.3", 80), ("10.1.0.4", 80)]}


def test_a_port_without_tasks_is_refused() -> None:
    idle = service(task(3, serving=False))
    assert host_targets([idle], {"web.3.t3": "172.18.0.5"}, "172.18.0.2") == {("tcp", 8080): []}


def test_a_local_only_service_never_leaves_the_host() -> None:
    near = OverlayService(
        network_id="net", id="s", name="web", tasks=[task(4, THERE)], local_only=True,
        ports=[OverlayPort(protocol="tcp", published=8080, target=80)],
    )  # fmt: skip
    assert host_targets([near], {}, "172.18.0.2") == {("tcp", 8080): []}
    assert gate_targets([near]) == {}


# --- tables ---------------------------------------------------------------------------------------------------------

STATES: list[dict[str, tuple[str, ...]]] = [
    {},
    {"10.1.0.2": ()},
    {"10.1.0.2": ("10.1.0.3",), "10.1.0.9": ()},
    {"10.1.0.2": ("10.1.0.3", "10.1.0.4"), "10.1.0.9": ("10.1.0.6",)},
    {"10.1.0.9": ("10.1.0.6", "10.1.0.7", "10.1.0.8")},
]


@pytest.mark.root
@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", STATES)
def test_changing_a_table_comes_to_the_same_as_writing_it_anew(
    before: dict[str, tuple[str, ...]], after: dict[str, tuple[str, ...]]
) -> None:
    def listed(*transactions: str) -> list[str]:
        context = Context()
        try:
            for commands in transactions:
                if commands:
                    context.run(commands)
            return balancing.tokens(context.run(f"list table ip {balancing.TABLE}"))
        finally:
            context.free()

    changed = netns.in_new(lambda: listed(balancing.whole_client(before), balancing.change_client(before, after)))
    anew = netns.in_new(lambda: listed(balancing.whole_client(after)))
    assert changed == anew


MESH_STATES: list[dict[tuple[str, int], list[tuple[str, int]]]] = [
    {},
    {("tcp", 80): []},
    {("tcp", 80): [("10.1.0.3", 80)], ("udp", 53): []},
    {("tcp", 80): [("10.1.0.3", 80), ("10.1.0.4", 80)], ("tcp", 81): [("10.1.0.6", 8081)]},
    {("udp", 53): [("10.1.0.3", 53)], ("tcp", 81): [("10.1.0.6", 8081), ("10.1.0.7", 8081)]},
]


@pytest.mark.root
@pytest.mark.parametrize("before", MESH_STATES)
@pytest.mark.parametrize("after", MESH_STATES)
def test_changing_the_mesh_comes_to_the_same_as_writing_it_anew(
    before: balancing.Publications, after: balancing.Publications
) -> None:
    def listed(table: str, *transactions: str) -> list[str]:
        context = Context()
        try:
            for commands in transactions:
                if commands:
                    context.run(commands)
            return balancing.tokens(context.run(f"list table ip {table}"))
        finally:
            context.free()

    for table, whole in (
        ("shoal_mesh", lambda state: balancing.whole_mesh("shoal_mesh", state)),
        (balancing.GATE, lambda state: balancing.whole_gate(state, "eth0")),
    ):
        step = balancing.change_publications(table, before, after)
        changed = netns.in_new(partial(listed, table, whole(before), step))
        assert changed == netns.in_new(partial(listed, table, whole(after)))


@pytest.mark.root
def test_the_tables_of_the_mesh_are_ones_that_the_kernel_takes() -> None:
    publications = {("tcp", 80): [("10.0.0.1", 80), ("10.0.0.2", 81)], ("tcp", 81): [], ("udp", 53): [("10.0.0.1", 53)]}

    def listed(commands: str, table: str) -> str:
        context = Context()
        try:
            context.run(commands)
            context.run(commands)  # replaces itself
            return context.run(f"list table ip {table}")
        finally:
            context.free()

    host = netns.in_new(lambda: listed(balancing.whole_mesh("shoal_x_mesh", publications), "shoal_x_mesh"))
    gate = netns.in_new(lambda: listed(balancing.whole_gate(publications, "eth0"), balancing.GATE))
    assert "0 : 10.0.0.1 . 80, 1 : 10.0.0.2 . 81" in host
    assert "elements = { 81 }" in host
    assert "masquerade" not in host, "the client's address is kept"
    assert 'oifname "eth0" ct status dnat masquerade' in gate


def test_two_listings_of_one_table_have_the_same_tokens() -> None:
    assert balancing.tokens("{ 1 : a, 2 : b }") == balancing.tokens("{ 2 : b, 1 : a }")
    assert balancing.tokens("{ 1 : a }") != balancing.tokens("{ 1 : b }")


def test_hardware_addresses_follow_from_addresses() -> None:
    assert vxlan.mac("10.1.0.3") == "02:42:0a:01:00:03"


def test_netlink_messages_are_told_apart_and_broken_ones_end_the_search() -> None:
    def message(kind: int, length: int = 20) -> bytes:
        return struct.pack("=IHHII", length, kind, 0, 0, 0) + bytes(4)

    assert list(kinds(message(10 << 8 | 2) + message(10 << 8 | 15))) == [(10, 2), (10, 15)]
    assert list(kinds(message(10 << 8 | 2, length=3))) == []
    assert list(kinds(b"short")) == []


@pytest.mark.root
def test_udp_flows_to_a_backend_that_left_are_forgotten_and_no_others() -> None:
    def inside() -> tuple[list[bytes], int, int]:
        with RouteSocket() as route:
            route.up(1)
            for last in (2, 3, 4):
                route.add_address(1, f"10.5.0.{last}", 32)
        old, new, client = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3))
        with old, new, client:
            for each, address in ((old, "10.5.0.3"), (new, "10.5.0.4")):
                each.bind((address, 99))
                each.settimeout(2)
            before, after = {"10.5.0.2": ("10.5.0.3",)}, {"10.5.0.2": ("10.5.0.4",)}
            apply_here(balancing.whole_client(before))
            client.connect(("10.5.0.2", 99))
            client.send(b"first")
            seen = [old.recv(9)]
            apply_here(balancing.change_client(before, after))
            others = forget_backends({"10.5.0.4"})
            forgotten = forget_backends({"10.5.0.3"})
            client.send(b"second")
            return [*seen, new.recv(9)], others, forgotten

    assert netns.in_new(inside) == ([b"first", b"second"], 0, 1)


def test_only_udp_ports_have_flows_to_forget() -> None:
    before = {("udp", 53): [("10.0.0.1", 53), ("10.0.0.2", 53)], ("tcp", 80): [("10.0.0.3", 80)]}
    assert udp_gone(before, {("udp", 53): [("10.0.0.2", 53)]}) == {"10.0.0.1"}
    assert udp_gone(before, {}) == {"10.0.0.1", "10.0.0.2"}
    assert udp_gone({}, before) == set()
