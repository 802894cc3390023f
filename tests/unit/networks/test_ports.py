"""Published ports: what can be asked for, and who holds what."""

from __future__ import annotations

import socket

import pytest

from api.errors import InvalidArgument, NotSupported
from api.types.endpoint import PortBinding
from worker.engine.networks.ports import EPHEMERAL, HostPorts, PortInUse, PortWish, parse_host_ports, parse_port, wishes
from worker.engine.networks.rules import ANY


def test_wishes_in_order_of_ports() -> None:
    found = wishes(
        {"80/tcp": [PortBinding(host_port="8080"), PortBinding(host_ip="127.0.0.1", host_port="9000-9002")], "22": []},
        ["53/udp", "80/tcp"],
        publish_all=True,
    )
    assert found == [
        PortWish("udp", 53, ANY, range(0)),
        PortWish("tcp", 80, ANY, range(8080, 8081)),
        PortWish("tcp", 80, "127.0.0.1", range(9000, 9003)),
    ]


def test_exposed_ports_alone_are_not_published() -> None:
    assert wishes({}, ["80/tcp"], publish_all=False) == []


@pytest.mark.parametrize("text", ["", "0", "x", "70000/tcp", "80/icmp", "80/tcp/x", "-1"])
def test_container_ports_that_cannot_be(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid port specification"):
        parse_port(text)


@pytest.mark.parametrize("text", ["x", "70000", "9-8", "1-2-3", "80/tcp"])
def test_host_ports_that_cannot_be(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid port specification"):
        parse_host_ports(text)


def test_addresses_that_cannot_be() -> None:
    with pytest.raises(InvalidArgument, match="invalid IP address"):
        wishes({"80/tcp": [PortBinding(host_ip="localhost")]}, [], publish_all=False)
    with pytest.raises(NotSupported, match="IPv6"):
        wishes({"80/tcp": [PortBinding(host_ip="::1")]}, [], publish_all=False)
    with pytest.raises(NotSupported, match="sctp"):
        wishes({"80/sctp": [PortBinding()]}, [], publish_all=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def ports() -> HostPorts:
    return HostPorts()


def test_a_port_is_held_until_given_back(ports: HostPorts) -> None:
    port = free_port()
    wish = PortWish("tcp", 80, "127.0.0.1", range(port, port + 1))
    assert ports.take(wish) == port
    with pytest.raises(PortInUse, match=f"Bind for 127.0.0.1:{port} failed: port is already allocated"):
        ports.take(wish)
    with pytest.raises(PortInUse, match="already allocated"):
        ports.take(PortWish("tcp", 80, ANY, range(port, port + 1)))
    with pytest.raises(OSError, match="in use"), socket.create_server(("127.0.0.1", port)):
        pass
    ports.give_back("tcp", "127.0.0.1", port)
    ports.give_back("tcp", "127.0.0.1", port)
    assert ports.take(wish) == port
    ports.close()


def test_a_port_of_another_program_is_refused(ports: HostPorts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortInUse, match="address already in use"):
            ports.take(PortWish("tcp", 80, "127.0.0.1", range(port, port + 1)))
    ports.close()


def test_a_range_takes_its_first_free_port_and_protocols_are_apart(ports: HostPorts) -> None:
    port = free_port()
    wish = PortWish("tcp", 80, "127.0.0.1", range(port, min(port + 50, 65535)))
    first, second = ports.take(wish), ports.take(wish)
    assert first < second
    assert ports.take(PortWish("udp", 80, "127.0.0.1", range(first, first + 1))) == first
    ports.close()


def test_ephemeral_ports(ports: HostPorts) -> None:
    wish = PortWish("udp", 53, "127.0.0.1", range(0))
    got = {ports.take(wish) for _ in range(20)}
    assert len(got) == 20
    assert all(port in EPHEMERAL for port in got)
    ports.close()
