"""nftables text. That the kernel takes it and does what it says is in tests/integration/test_networks.py."""

from __future__ import annotations

from worker.engine.networks.records import PublishedPort
from worker.engine.networks.rules import BridgeRules, publish, table_name, unpublish, whole_table

WEB = PublishedPort(protocol="tcp", host_ip="0.0.0.0", host_port=8080, container_ip="172.17.0.2", container_port=80)
LOCAL = PublishedPort(protocol="udp", host_ip="127.0.0.1", host_port=53, container_ip="172.17.0.2", container_port=53)


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def test_daemons_on_one_host_have_tables_of_their_own() -> None:
    assert table_name("/var/lib/shoal") != table_name("/srv/other")
    assert table_name("/var/lib/shoal").startswith("shoal_")


def test_one_element_for_each_port() -> None:
    assert publish("t", [WEB, LOCAL]) == (
        "add element ip t tcp_any { 8080 : 172.17.0.2 . 80 }\n"
        "add element ip t udp_at { 127.0.0.1 . 53 : 172.17.0.2 . 53 }"
    )
    assert publish("t", []) == ""


def test_unpublish_adds_first_so_that_it_can_be_said_twice() -> None:
    assert lines(unpublish("t", [WEB])) == [
        "add element ip t tcp_any { 8080 : 172.17.0.2 . 80 }",
        "delete element ip t tcp_any { 8080 }",
    ]


def test_whole_table_replaces_itself_and_names_no_other() -> None:
    text = whole_table("t", [BridgeRules("shoal0", "172.17.0.0/16")], [WEB])
    assert lines(text)[:3] == ["add table ip t", "delete table ip t", "table ip t {"]
    assert text.count("table ") == 3
    assert (
        "map tcp_any { type inet_service : ipv4_addr . inet_service; elements = { 8080 : 172.17.0.2 . 80 }; }" in text
    )
    assert 'ip saddr 172.17.0.0/16 oifname != "shoal0" masquerade' in lines(text)


def test_internal_bridges_are_cut_off_before_anything_is_accepted() -> None:
    text = whole_table("t", [BridgeRules("br-a", "10.0.0.0/24", internal=True)], [])
    forward = lines(text[text.index("chain forward") :])
    cut = forward.index('iifname "br-a" oifname != "br-a" drop')
    assert cut < forward.index('oifname { "br-a" } ct state established,related accept')
    assert "masquerade" not in text


def test_icc_off_accepts_nothing_between_containers() -> None:
    on = whole_table("t", [BridgeRules("br-a", "10.0.0.0/24")], [])
    off = whole_table("t", [BridgeRules("br-a", "10.0.0.0/24", icc=False)], [])
    rule = 'iifname "br-a" oifname "br-a" accept'
    assert rule in lines(on)
    assert rule not in lines(off)


def test_masquerade_off_keeps_the_containers_addresses() -> None:
    text = whole_table("t", [BridgeRules("br-a", "10.0.0.0/24", masquerade=False)], [])
    assert 'ip saddr 10.0.0.0/24 oifname != "br-a" masquerade' not in lines(text)
