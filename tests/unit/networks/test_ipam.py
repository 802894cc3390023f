"""Addresses and subnets: never twice, never a reserved one, the lowest first."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.errors import Conflict, InvalidArgument, Unavailable
from api.wire.ipam import (
    AddressPools,
    choose_subnet,
    mac_of,
    make_subnet,
    parse_routes,
)


def test_default_pools_in_dockers_order() -> None:
    pools = AddressPools()
    taken: list[IPv4Network] = []
    for _ in range(17):
        taken.append(choose_subnet(pools, taken))
    assert [str(taken[0]), str(taken[14]), str(taken[15]), str(taken[16])] == [
        "172.17.0.0/16",
        "172.31.0.0/16",
        "192.168.0.0/20",
        "192.168.16.0/20",
    ]


def test_a_chosen_subnet_overlaps_nothing_and_pools_run_out() -> None:
    pools = AddressPools(((IPv4Network("10.0.0.0/22"), 24),))
    taken = [IPv4Network("10.0.1.128/25")]
    assert str(choose_subnet(pools, taken)) == "10.0.0.0/24"
    assert str(choose_subnet(pools, [*taken, IPv4Network("10.0.0.0/24")])) == "10.0.2.0/24"
    with pytest.raises(Unavailable, match="non-overlapping IPv4 address pool"):
        choose_subnet(pools, [IPv4Network("10.0.0.0/8")])


def test_lowest_free_address_first_and_released_ones_again() -> None:
    subnet = make_subnet("10.0.0.0/29")
    assert str(subnet.gateway) == "10.0.0.1"
    got = [subnet.allocate() for _ in range(5)]
    assert [str(address) for address in got] == [f"10.0.0.{last}" for last in (2, 3, 4, 5, 6)]
    with pytest.raises(Unavailable, match="no available IPv4 addresses"):
        subnet.allocate()
    subnet.release(IPv4Address("10.0.0.4"))
    assert str(subnet.allocate()) == "10.0.0.4"


def test_range_gateway_and_auxiliary_addresses_are_kept() -> None:
    subnet = make_subnet("10.0.0.0/24", "10.0.0.254", "10.0.0.16/30", {"router": "10.0.0.17"})
    assert [str(subnet.allocate()) for _ in range(3)] == ["10.0.0.16", "10.0.0.18", "10.0.0.19"]
    with pytest.raises(Unavailable):
        subnet.allocate()
    assert str(subnet.allocate(IPv4Address("10.0.0.99"))) == "10.0.0.99"
    for address, kind in (
        ("10.0.0.99", Conflict),
        ("10.0.0.254", Conflict),
        ("10.0.0.17", Conflict),
        ("10.0.0.255", Conflict),
        ("10.0.1.1", InvalidArgument),
    ):
        with pytest.raises(kind):
            subnet.allocate(IPv4Address(address))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("10.0.0.1/24",), "it should be 10.0.0.0/24"),
        (("nonsense",), "invalid Subnet"),
        (("10.0.0.0/31",), "too small"),
        (("10.0.0.0/24", "10.0.1.1"), "invalid gateway"),
        (("10.0.0.0/24", "x"), "invalid Gateway"),
        (("10.0.0.0/24", "", "10.0.1.0/25"), "invalid ip-range"),
        (("10.0.0.0/24", "", "", {"a": "10.9.9.9"}), "invalid auxiliary address"),
        (("10.0.0.0/24", "10.0.0.1", "", {"a": "10.0.0.1"}), "it is the gateway"),
    ],
)
def test_bad_subnets_are_named(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        make_subnet(*arguments)  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(0, 40)), max_size=60))
def test_against_a_set(steps: list[int | None]) -> None:
    """None allocates; a number releases that one of the addresses that are out."""
    subnet = make_subnet("10.0.0.0/27", "10.0.0.7", "", {"aux": "10.0.0.9"})
    free = {IPv4Address(f"10.0.0.{last}") for last in range(1, 31)} - {subnet.gateway, IPv4Address("10.0.0.9")}
    out: list[IPv4Address] = []
    for step in steps:
        if step is not None and out:
            address = out.pop(step % len(out))
            subnet.release(address)
            free.add(address)
        elif step is None and free:
            address = subnet.allocate()
            assert address == min(free)
            free.remove(address)
            out.append(address)
        elif step is None:
            with pytest.raises(Unavailable):
                subnet.allocate()


def test_mac_of_an_address() -> None:
    assert mac_of(IPv4Address("172.17.0.2")) == "02:42:ac:11:00:02"


def test_routes_of_proc() -> None:
    text = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert parse_routes(text) == [
        ("docker0", IPv4Network("172.17.0.0/16")),
        ("eth0", IPv4Network("192.0.2.0/24")),
    ]
