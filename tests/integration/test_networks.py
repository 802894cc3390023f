"""Networking on a real kernel, in a network namespace of the test's own: the machine's links and rules stay untouched.

Each test body runs with its event loop in a thread that has its own namespace; threads it starts inherit it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import dns.rrset
import pytest
from msgspec.structs import replace
from pyroute2 import IPRoute

from api.errors import Conflict, Forbidden, NotFound
from api.types.endpoint import EndpointIPAMConfig, EndpointSettings, PortBinding
from api.types.network import IPAM, IPAMConfig, NetworkCreate
from tests.integration.networking import (
    Heard,
    alone,
    ask_from,
    ask_here,
    controller,
    echo,
    links,
    request,
    sole_address,
)
from worker.engine.networks.nft import apply_here
from worker.engine.networks.ports import PortInUse
from worker.engine.networks.records import SANDBOXES, SandboxRecord
from worker.engine.parts import Sandbox
from worker.engine.records import Put, Records
from worker.engine.syscalls import netns

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _namespaces(tmp_path: Path) -> Iterator[None]:
    """Let go of the namespaces of containers that a test leaves running."""
    yield
    for path in (tmp_path / "run/netns").glob("*"):
        netns.remove(path)


def test_two_containers_talk_and_detach_leaves_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        heard = Heard()
        async with controller(tmp_path, heard) as networks:
            one = await networks.attach(request(tmp_path, "one"))
            two = await networks.attach(request(tmp_path, "two"))
            assert one.endpoints["bridge"].ip_address == "172.17.0.2"
            assert one.endpoints["bridge"].gateway == "172.17.0.1"
            assert one.endpoints["bridge"].ip_prefix_len == 16
            assert one.endpoints["bridge"].mac_address == "02:42:ac:11:00:02"
            with echo(two, 80):
                assert await ask_from(one, sole_address(two), 80) == "172.17.0.2 hello"
            assert "172.17.0.2\tone" in one.hosts.read_text()
            assert one.hostname.read_text() == "one\n"
            await networks.detach(("one" * 64)[:64])
            await networks.detach(("two" * 64)[:64])
            await networks.detach(("two" * 64)[:64])
            assert await networks.sandbox(("one" * 64)[:64]) is None
        assert links() == {"lo", "shoal0"}
        assert list((tmp_path / "run/netns").iterdir()) == []
        assert heard.all == [("network connect", "bridge")] * 2 + [("network disconnect", "bridge")] * 2

    alone(body)


def test_published_port_from_the_host_loopback_and_other_containers(tmp_path: Path) -> None:
    async def body() -> None:
        async with controller(tmp_path) as networks:
            ports = {"80/tcp": [PortBinding(host_port="8080")], "53/udp": [PortBinding(host_ip="127.0.0.1")]}
            web = await networks.attach(request(tmp_path, "web", ports=ports, exposed=["443/tcp"]))
            other = await networks.attach(request(tmp_path, "other"))
            assert web.ports["80/tcp"] == [PortBinding(host_ip="0.0.0.0", host_port="8080")]
            assert web.ports["443/tcp"] is None
            (udp,) = web.ports["53/udp"] or ()
            assert udp.host_ip == "127.0.0.1"
            with echo(web, 80), echo(web, 53, socket.SOCK_DGRAM):
                assert await ask_here("127.0.0.1", 8080) == "172.17.0.1 hello"
                assert (await ask_here("172.17.0.1", 8080)).endswith("hello")
                assert (await ask_here("127.0.0.1", int(udp.host_port), socket.SOCK_DGRAM)).endswith("hello")
                assert (await ask_from(other, "172.17.0.1", 8080)).endswith("hello")
                assert (await ask_from(web, "172.17.0.1", 8080)).endswith("hello")
            with socket.socket() as rival:
                rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    rival.bind(("0.0.0.0", 8080))
            await networks.detach(("web" * 64)[:64])
            with pytest.raises(ConnectionRefusedError):
                await ask_here("127.0.0.1", 8080)
            again = await networks.attach(request(tmp_path, "web", ports=ports))
            with echo(again, 80):
                assert (await ask_here("127.0.0.1", 8080)).endswith("hello")

    alone(body)


def test_the_hosts_loopback_is_not_reachable_from_a_container(tmp_path: Path) -> None:
    async def body() -> None:
        async with controller(tmp_path) as networks:
            evil = await networks.attach(request(tmp_path, "evil"))
            assert evil.netns is not None
            with socket.socket() as service:
                service.bind(("127.0.0.1", 9999))
                service.listen()

                def attack() -> None:
                    with IPRoute() as ip:
                        ip.link("set", index=1, state="down")
                        ip.flush_addr(index=1)
                        ip.route("add", dst="127.0.0.0/8", gateway="172.17.0.1", table=254)
                        Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")
                    socket.create_connection(("127.0.0.1", 9999), timeout=0.5).close()

                with pytest.raises(TimeoutError):
                    await asyncio.to_thread(netns.call, evil.netns, attack)

    alone(body)


def test_a_port_in_use_fails_with_dockers_words_and_leaves_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        async with controller(tmp_path) as networks:
            ports = {"80/tcp": [PortBinding(host_port="8080")]}
            await networks.attach(request(tmp_path, "web", ports=ports))
            before = links()
            with pytest.raises(
                PortInUse,
                match=r"driver failed programming external connectivity on endpoint second "
                r"\(\w{64}\): Bind for 0.0.0.0:8080 failed: port is already allocated",
            ):
                await networks.attach(request(tmp_path, "second", ports=ports))
            with socket.socket() as host_program:
                host_program.bind(("0.0.0.0", 8081))
                host_program.listen()
                with pytest.raises(PortInUse, match="address already in use"):
                    await networks.attach(request(tmp_path, "third", ports={"80/tcp": [PortBinding(host_port="8081")]}))
            assert links() == before
            assert len(list((tmp_path / "run/netns").iterdir())) == 1
            assert len(networks.inspect("bridge").containers) == 1
            third = await networks.attach(
                request(tmp_path, "third", ports={"80/tcp": [PortBinding(host_port="8081-8085")]})
            )
            assert third.ports["80/tcp"] == [PortBinding(host_ip="0.0.0.0", host_port="8081")]

    alone(body)


def test_modes_none_host_and_container(tmp_path: Path) -> None:
    async def body() -> None:
        async with controller(tmp_path) as networks:
            none = await networks.attach(request(tmp_path, "none1", mode="none"))
            assert none.netns is not None
            assert netns.call(none.netns, links) == {"lo"}
            assert list(none.endpoints) == ["none"]
            host = await networks.attach(request(tmp_path, "host1", mode="host"))
            assert host.netns is None
            assert list(host.endpoints) == ["host"]
            web = await networks.attach(request(tmp_path, "web"))
            shared = await networks.attach(
                request(tmp_path, "side", mode=f"container:{('web' * 64)[:64]}", join=web.netns)
            )
            assert shared.netns == web.netns
            assert shared.hosts == web.hosts
            await networks.detach(("side" * 64)[:64])
            assert web.netns is not None
            assert netns.is_namespace(web.netns)

    alone(body)


def test_bridges_are_isolated_but_published_ports_are_for_all(tmp_path: Path) -> None:
    async def body() -> None:
        async with controller(tmp_path) as networks:
            await networks.create(NetworkCreate(name="blue"))
            await networks.create(NetworkCreate(name="inner", internal=True))
            web = await networks.attach(
                request(tmp_path, "web", mode="blue", ports={"80/tcp": [PortBinding(host_port="8080")]})
            )
            other = await networks.attach(request(tmp_path, "other"))
            inner = await networks.attach(request(tmp_path, "inner1", mode="inner"))
            assert web.endpoints["blue"].ip_address == "172.18.0.2"
            assert inner.endpoints["inner"].gateway == ""
            with echo(web, 80):
                with pytest.raises(TimeoutError):
                    await ask_from(other, "172.18.0.2", 80, timeout=0.5)
                with pytest.raises(OSError, match="unreachable"):
                    await ask_from(inner, "172.18.0.2", 80, timeout=0.5)
                assert (await ask_from(other, "172.17.0.1", 8080)).endswith("hello")
            with pytest.raises(Forbidden, match="has active endpoints"):
                await networks.remove("blue")
            await networks.detach(("web" * 64)[:64])
            await networks.remove("blue")
            with pytest.raises(NotFound, match="network blue not found"):
                networks.inspect("blue")

    alone(body)


@pytest.mark.promise("networks.connect.b3")
def test_connect_and_disconnect_a_running_container(tmp_path: Path) -> None:
    async def body() -> None:
        async with controller(tmp_path) as networks:
            subnet = IPAMConfig(subnet="10.9.0.0/24", ip_range="10.9.0.128/25", gateway="10.9.0.1")
            await networks.create(NetworkCreate(name="blue", ipam=IPAM(config=[subnet])))
            web = await networks.attach(request(tmp_path, "web"))
            friend = await networks.attach(request(tmp_path, "friend", mode="blue"))
            assert friend.endpoints["blue"].ip_address == "10.9.0.128"
            static = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.9.0.99"))
            joined = await networks.connect(web_id := ("web" * 64)[:64], "blue", static)
            assert joined.ip_address == "10.9.0.99"
            with pytest.raises(Forbidden, match="already exists in network blue"):
                await networks.connect(web_id, "blue", EndpointSettings())
            assert web.netns is not None
            assert netns.call(web.netns, links) == {"lo", "eth0", "eth1"}
            assert "10.9.0.99\tweb" in web.hosts.read_text()
            with echo(web, 80):
                assert await ask_from(friend, "10.9.0.99", 80) == "10.9.0.128 hello"
            with pytest.raises(Conflict, match="Address already in use"):
                await networks.attach(request(tmp_path, "rival", mode="blue", endpoints={"blue": static}))
            await networks.disconnect(web_id, "blue")
            assert netns.call(web.netns, links) == {"lo", "eth0"}
            assert "10.9.0.99" not in web.hosts.read_text()
            with pytest.raises(NotFound, match="is not connected"):
                await networks.disconnect(web_id, "blue")
            await networks.disconnect(web_id, "bridge")  # the last one, and with it the default route
            assert netns.call(web.netns, links) == {"lo"}
            await networks.connect(web_id, "blue", EndpointSettings())
            assert netns.call(web.netns, links) == {"lo", "eth0"}

    alone(body)


def test_a_new_daemon_keeps_the_running_and_removes_the_rest(tmp_path: Path) -> None:
    async def body() -> None:
        async with controller(tmp_path) as networks:
            web = await networks.attach(request(tmp_path, "web", ports={"80/tcp": [PortBinding(host_port="8080")]}))
            await networks.attach(request(tmp_path, "gone", ports={"80/tcp": [PortBinding(host_port="8081")]}))
        (tmp_path / "run/netns/stray").touch()
        async with controller(tmp_path) as networks:
            await networks.reconcile([("web" * 64)[:64]])
            kept = await networks.sandbox(("web" * 64)[:64])
            assert kept == web
            with echo(web, 80):
                assert (await ask_here("127.0.0.1", 8080)).endswith("hello")
            with pytest.raises(ConnectionRefusedError):
                await ask_here("127.0.0.1", 8081)
            assert await networks.sandbox(("gone" * 64)[:64]) is None
            assert len(list((tmp_path / "run/netns").iterdir())) == 1
            assert len(links() - {"lo", "shoal0"}) == 1
            fresh = await networks.attach(request(tmp_path, "fresh"))
            assert sole_address(fresh) == "172.17.0.3"

    alone(body)


@pytest.mark.parametrize("before", [True, False], ids=["the past one first", "the past one last"])
def test_two_sandboxes_of_one_container_after_a_crash(tmp_path: Path, before: bool) -> None:
    async def body() -> None:
        web = request(tmp_path, "web", "blue")
        records = Records(tmp_path / "engine.db")
        async with controller(tmp_path) as networks:
            await networks.create(NetworkCreate(name="blue"))
            await networks.attach(web)
            await records.open()
            (past,) = (await records.all(SANDBOXES, SandboxRecord)).values()
            await networks.attach(web)
        # The crash came before the record of the run that had ended was removed.
        past = replace(past, id=("0" if before else "f") * len(past.id))
        await records.write(Put(SANDBOXES, past.id, past))
        async with controller(tmp_path) as networks:
            await networks.reconcile([web.container_id])
            assert len(await records.all(SANDBOXES, SandboxRecord)) == 1
            sandbox = await networks.sandbox(web.container_id)
            assert sandbox is not None
            assert sandbox.netns is not None
            assert sandbox.netns.exists()
            await networks.detach(web.container_id)
            await networks.remove("blue")
        await records.close()

    alone(body)


def test_an_endpoint_whose_link_a_crash_took_is_given_up(tmp_path: Path) -> None:
    async def body() -> None:
        web = request(tmp_path, "web", ports={"80/tcp": [PortBinding(host_port="8080")]})
        records = Records(tmp_path / "engine.db")
        async with controller(tmp_path) as networks:
            await networks.create(NetworkCreate(name="blue"))
            await networks.attach(web)
            await networks.connect(web.container_id, "blue", EndpointSettings())
            await records.open()
            (record,) = (await records.all(SANDBOXES, SandboxRecord)).values()
        subprocess.run(["ip", "link", "del", record.endpoints[1].link], check=True)
        async with controller(tmp_path) as networks:
            await networks.reconcile([web.container_id])
            sandbox = await networks.sandbox(web.container_id)
            assert sandbox is not None
            assert set(sandbox.endpoints) == {"bridge"}
            assert sandbox.ports["80/tcp"]
            await networks.connect(web.container_id, "blue", EndpointSettings())
            await networks.detach(web.container_id)
            await networks.remove("blue")
        await records.close()

    alone(body)


def test_rules_that_somebody_flushed_come_back_with_the_next_change(tmp_path: Path) -> None:
    async def body() -> None:
        async with controller(tmp_path) as networks:
            web = await networks.attach(request(tmp_path, "web", ports={"80/tcp": [PortBinding(host_port="8080")]}))
            await asyncio.to_thread(apply_here, "flush ruleset")
            new = await networks.attach(request(tmp_path, "new", ports={"80/tcp": [PortBinding(host_port="8081")]}))
            with echo(web, 80), echo(new, 80):
                assert (await ask_here("127.0.0.1", 8080)).endswith("hello")
                assert (await ask_here("127.0.0.1", 8081)).endswith("hello")
            await asyncio.to_thread(apply_here, "flush ruleset")
            await networks.detach(("new" * 64)[:64])
            with echo(web, 80):
                assert (await ask_here("127.0.0.1", 8080)).endswith("hello")

    alone(body)


def test_icc_off_keeps_containers_of_one_network_apart(tmp_path: Path) -> None:
    async def body() -> None:
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("0")
        async with controller(tmp_path) as networks:
            await networks.create(NetworkCreate(name="shy", options={"com.docker.network.bridge.enable_icc": "false"}))
            ports = {"80/tcp": [PortBinding(host_port="8080")]}
            one = await networks.attach(request(tmp_path, "one", mode="shy", ports=ports))
            two = await networks.attach(request(tmp_path, "two", mode="shy"))
            with echo(one, 80):
                with pytest.raises(TimeoutError):
                    await ask_from(two, sole_address(one), 80, timeout=0.5)
                assert (await ask_from(two, "172.18.0.1", 8080)).endswith("hello")

    alone(body)


def test_a_bridge_keeps_its_hardware_address_whoever_joins_and_leaves(tmp_path: Path) -> None:
    """Else the neighbour entries of all the other containers lead nowhere until they have been probed in vain."""

    async def body() -> None:
        def hardware() -> str:
            with IPRoute() as ip:
                (link,) = ip.link("get", ifname="shoal0")
                return str(link.get_attr("IFLA_ADDRESS"))

        async with controller(tmp_path) as networks:
            seen = {await asyncio.to_thread(hardware)}
            names = [f"c{number}" for number in range(8)]
            for name in names:
                await networks.attach(request(tmp_path, name))
                seen.add(await asyncio.to_thread(hardware))
            for name in names:
                await networks.detach((name * 64)[:64])
                seen.add(await asyncio.to_thread(hardware))
            assert len(seen) == 1

    alone(body)


def test_a_network_inherits_no_flow_of_one_that_had_its_subnet(tmp_path: Path) -> None:
    async def body() -> None:
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")  # flows between ports are tracked
        subnet = IPAM(config=[IPAMConfig(subnet="172.30.7.0/24")])
        async with controller(tmp_path) as networks:
            outcomes = []
            for name, icc in (("open", "true"), ("shy", "false")):
                options = {"com.docker.network.bridge.enable_icc": icc}
                await networks.create(NetworkCreate(name=name, ipam=subnet, options=options))
                one = await networks.attach(request(tmp_path, f"one{name}", mode=name))
                two = await networks.attach(request(tmp_path, f"two{name}", mode=name))
                assert [sole_address(one), sole_address(two)] == ["172.30.7.2", "172.30.7.3"]
                with echo(two, 53, socket.SOCK_DGRAM):
                    outcomes.append(await asyncio.to_thread(datagram, one, "172.30.7.3", 53))
                for each in ("one", "two"):
                    await networks.detach((f"{each}{name}" * 64)[:64])
                await networks.remove(name)
            assert outcomes == [b"172.30.7.2 hello", b""]

    alone(body)


def datagram(sandbox: Sandbox, address: str, port: int) -> bytes:
    """What answers a datagram from port 4000 of the sandbox; empty for nothing."""
    assert sandbox.netns is not None
    with netns.call(sandbox.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.bind(("0.0.0.0", 4000))
        client.settimeout(1)
        client.sendto(b"hello", (address, port))
        with contextlib.suppress(TimeoutError):
            return client.recv(100)
    return b""


def test_a_udp_client_that_was_there_before_reaches_each_new_container(tmp_path: Path) -> None:
    async def body() -> None:
        async with controller(tmp_path) as networks:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(3)
                for name in ("first", "second"):
                    client.sendto(b"nobody is there yet", ("172.17.0.1", 5353))
                    ports = {"53/udp": [PortBinding(host_port="5353")]}
                    server = await networks.attach(request(tmp_path, name, ports=ports))
                    with echo(server, 53, socket.SOCK_DGRAM):
                        client.sendto(b"hello", ("172.17.0.1", 5353))
                        data = await asyncio.to_thread(client.recv, 100)
                    assert data.endswith(b"hello")
                    other = await networks.attach(request(tmp_path, "holds" + name))
                    await networks.detach((name * 64)[:64])
                    assert sole_address(other) != sole_address(server)

    alone(body)


def make_docker0() -> None:
    with IPRoute() as ip:
        ip.link("add", ifname="docker0", kind="bridge")
        ip.addr("add", index=socket.if_nametoindex("docker0"), address="172.17.0.1", prefixlen=16)
        ip.link("set", index=socket.if_nametoindex("docker0"), state="up")


def test_the_default_bridge_avoids_the_hosts_networks(tmp_path: Path) -> None:
    async def body() -> None:
        await asyncio.to_thread(make_docker0)
        async with controller(tmp_path) as networks:
            (config,) = networks.inspect("bridge").ipam.config or ()
            assert config.subnet == "172.18.0.0/16"

    alone(body)


async def resolve(sandbox: Sandbox, name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
    """Ask 127.0.0.11:53 from inside the sandbox."""
    assert sandbox.netns is not None
    question = dns.message.make_query(name, kind)
    send = dns.query.tcp if tcp else dns.query.udp
    return await asyncio.to_thread(netns.call, sandbox.netns, lambda: send(question, "127.0.0.11", timeout=3))


async def addresses(sandbox: Sandbox, name: str, *, tcp: bool = False) -> set[str]:
    response = await resolve(sandbox, name, tcp=tcp)
    return {item.to_text() for rrset in response.answer for item in rrset}


def test_names_resolve_on_user_networks_also_after_a_restart(tmp_path: Path) -> None:
    async def body() -> None:
        async with controller(tmp_path) as networks:
            await networks.create(NetworkCreate(name="blue"))
            alias = {"blue": EndpointSettings(aliases=["www"])}
            one = await networks.attach(request(tmp_path, "one", mode="blue", endpoints=alias))
            two = await networks.attach(request(tmp_path, "two", mode="blue", endpoints=alias))
            assert one.resolv_conf.read_text().startswith("nameserver 127.0.0.11\n")
            assert await addresses(one, "two") == {"172.18.0.3"}
            assert await addresses(one, "TWO.blue", tcp=True) == {"172.18.0.3"}
            assert await addresses(two, "www") == {"172.18.0.2", "172.18.0.3"}
            assert (await resolve(one, "two", "AAAA")).rcode() == dns.rcode.NOERROR
            assert await addresses(one, "two", tcp=True) == {"172.18.0.3"}
            pointer = await resolve(one, "3.0.18.172.in-addr.arpa", "PTR")
            assert pointer.answer[0][0].to_text() == "two.blue."
            late = await networks.attach(request(tmp_path, "late"))
            assert "127.0.0.11" not in late.resolv_conf.read_text()
            await networks.connect(("late" * 64)[:64], "blue", EndpointSettings(aliases=["tardy"]))
            assert late.resolv_conf.read_text().startswith("nameserver 127.0.0.11\n")
            assert await addresses(late, "one") == {"172.18.0.2"}
            assert await addresses(one, "tardy") == {"172.18.0.4"}
            await networks.detach(("two" * 64)[:64])
            assert await addresses(one, "www") == {"172.18.0.2"}
        async with controller(tmp_path) as networks:
            await networks.reconcile([(name * 64)[:64] for name in ("one", "late")])
            assert await addresses(one, "late") == {"172.18.0.4"}
            await networks.detach(("one" * 64)[:64])
            await networks.detach(("late" * 64)[:64])
        assert len(links()) == 3

    alone(body)


class Upstream(asyncio.DatagramProtocol):
    """A name server of the test: knows one name."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        question = dns.message.from_wire(data)
        response = dns.message.make_response(question)
        if question.question[0].name.to_text() == "example.test.":
            response.answer.append(dns.rrset.from_text("example.test.", 5, "IN", "A", "192.0.2.7"))
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(response.to_wire(), addr)  # type: ignore[attr-defined]


def test_other_names_go_upstream_but_not_from_internal_networks(tmp_path: Path) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        upstream, _ = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", 53))
        async with controller(tmp_path) as networks:
            await networks.create(NetworkCreate(name="blue"))
            await networks.create(NetworkCreate(name="inner", internal=True))
            one = await networks.attach(request(tmp_path, "one", mode="blue", dns=["127.0.0.1"]))
            two = await networks.attach(request(tmp_path, "two", mode="inner", dns=["127.0.0.1"]))
            assert await addresses(one, "example.test") == {"192.0.2.7"}
            assert (await resolve(one, "nobody.test")).rcode() == dns.rcode.NXDOMAIN
            assert (await resolve(two, "example.test")).rcode() == dns.rcode.SERVFAIL
            assert await addresses(two, "two") == {"172.19.0.2"}
        upstream.close()
        await asyncio.sleep(0)

    alone(body)
