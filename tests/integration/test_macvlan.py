"""Macvlan networks on the real kernel: containers are on their parent's wire, without a bridge and without rules."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from pyroute2 import IPRoute

from api.errors import Conflict
from api.types.endpoint import EndpointIPAMConfig, EndpointSettings, PortBinding
from api.types.network import IPAM, IPAMConfig, NetworkCreate
from tests.integration.networking import Heard, alone, ask, ask_from, controller, echo, links, request
from worker.engine.networks.links import index_of
from worker.engine.networks.records import SANDBOXES, SandboxRecord
from worker.engine.parts import Sandbox
from worker.engine.records import Put, Records
from worker.engine.syscalls import netns

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _namespaces(tmp_path: Path) -> Iterator[None]:
    """Let go of the namespaces of containers that a test leaves running, and of the neighbour's."""
    yield
    for path in [*(tmp_path / "run/netns").glob("*"), tmp_path / "neighbour"]:
        netns.remove(path)


def wire(tmp_path: Path, address: str) -> Path:
    """A link `wire0` here, and a neighbour with this address at its other end."""
    neighbour = tmp_path / "neighbour"
    netns.create(neighbour)
    with IPRoute() as ip, neighbour.open() as file:
        ip.link("add", ifname="wire0", kind="veth", peer={"ifname": "eth0", "net_ns_fd": file.fileno()})
        ip.link("set", index=index_of("wire0"), state="up")

    def inside() -> None:
        with IPRoute() as ip:
            ip.addr("add", index=index_of("eth0"), address=address, prefixlen=24)
            ip.link("set", index=index_of("eth0"), state="up")

    netns.call(neighbour, inside)
    return neighbour


def remove(link: str) -> None:
    with IPRoute() as ip:
        ip.link("del", index=index_of(link))


def wanted(name: str, subnet: str, **options: str) -> NetworkCreate:
    return NetworkCreate(
        name=name,
        driver="macvlan",
        options=options,
        ipam=IPAM(config=[IPAMConfig(subnet=subnet)]),
        check_duplicate=True,
    )


def inside(sandbox: Sandbox, name: str) -> bool:
    assert sandbox.netns is not None
    return netns.call(sandbox.netns, lambda: index_of(name)) is not None


def gateways(sandbox: Sandbox) -> list[str]:
    assert sandbox.netns is not None
    lines = netns.call(sandbox.netns, lambda: Path("/proc/thread-self/net/route").read_text()).splitlines()
    return [line.split()[2] for line in lines[1:] if line.split()[1] == "00000000"]


@pytest.mark.promise("networks.create.body.Options")
def test_containers_are_neighbours_on_the_wire(tmp_path: Path) -> None:
    async def body() -> None:
        neighbour = await asyncio.to_thread(wire, tmp_path, "10.77.0.200")
        before = links()
        heard = Heard()
        async with controller(tmp_path, heard) as networks:
            await networks.create(wanted("lan", "10.77.0.0/24", parent="wire0"))
            with pytest.raises(Conflict, match="is already using parent interface wire0"):
                await networks.create(wanted("more", "10.78.0.0/24", parent="wire0"))
            ports = {"80/tcp": [PortBinding(host_port="8080")]}
            one = await networks.attach(request(tmp_path, "one", "lan", ports=ports, exposed=["90/tcp"]))
            two = await networks.attach(request(tmp_path, "two", "lan"))
            assert one.ports == {}, "no packet of theirs passes this host"
            assert (one.endpoints["lan"].ip_address, one.endpoints["lan"].gateway) == ("10.77.0.2", "10.77.0.1")
            assert gateways(one) == ["01004D0A"]
            assert one.netns is not None
            with echo(one, 80):
                assert await ask_from(two, "10.77.0.2", 80) == "10.77.0.3 hello"
                said = await asyncio.to_thread(netns.call, neighbour, lambda: ask("10.77.0.2", 80))
                assert said == "10.77.0.200 hello"
            assert links() == before | {"shoal0"}
            shown = networks.inspect("lan")
            assert (shown.driver, shown.options, len(shown.containers)) == ("macvlan", {"parent": "wire0"}, 2)
            for name in ("one", "two"):
                await networks.detach((name * 64)[:64])
            await networks.remove("lan")
            assert links() == before | {"shoal0"}
            assert ("network create", "lan") in heard.all
            await networks.create(wanted("lan", "10.77.0.0/24", parent="wire0"))

    alone(body)


def test_private_ones_do_not_hear_each_other(tmp_path: Path) -> None:
    async def body() -> None:
        neighbour = await asyncio.to_thread(wire, tmp_path, "10.77.0.200")
        async with controller(tmp_path) as networks:
            await networks.create(wanted("lan", "10.77.0.0/24", parent="wire0", macvlan_mode="private"))
            one = await networks.attach(request(tmp_path, "one", "lan"))
            two = await networks.attach(request(tmp_path, "two", "lan"))
            with echo(one, 80):
                said = await asyncio.to_thread(netns.call, neighbour, lambda: ask("10.77.0.2", 80))
                assert said == "10.77.0.200 hello"
                with pytest.raises(OSError, match=r"timed out|No route"):
                    await ask_from(two, "10.77.0.2", 80, timeout=0.5)

    alone(body)


def test_without_a_parent_nothing_leads_out(tmp_path: Path) -> None:
    async def body() -> None:
        before = links()
        async with controller(tmp_path) as networks:
            made = await networks.create(NetworkCreate(name="lone", driver="macvlan"))
            link = f"dm-{made.id[:12]}"
            assert links() == before | {"shoal0", link}
            one = await networks.attach(request(tmp_path, "one", "lone"))
            two = await networks.attach(request(tmp_path, "two", "lone"))
            assert gateways(one) == []
            with echo(one, 80):
                address = one.endpoints["lone"].ip_address
                assert await ask_from(two, address, 80) == f"{two.endpoints['lone'].ip_address} hello"
            for name in ("one", "two"):
                await networks.detach((name * 64)[:64])
        await asyncio.to_thread(remove, link)
        async with controller(tmp_path) as networks:
            await networks.reconcile([])
            assert link in links(), "it is there again after the host was off"
            await networks.remove("lone")
            assert links() == before | {"shoal0"}

    alone(body)


def test_joined_and_left_while_it_runs(tmp_path: Path) -> None:
    async def body() -> None:
        await asyncio.to_thread(wire, tmp_path, "10.77.0.200")
        async with controller(tmp_path) as networks:
            await networks.create(wanted("lan", "10.77.0.0/24", parent="wire0"))
            ports = {"80/tcp": [PortBinding(host_port="8080")]}
            one = await networks.attach(request(tmp_path, "one", ports=ports))
            wish = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.77.0.9"))
            cid = ("one" * 64)[:64]
            joined = await networks.connect(cid, "lan", wish)
            assert (joined.ip_address, inside(one, "eth1")) == ("10.77.0.9", True)
            assert await ask_from_wire(one) == "reached"
            await networks.disconnect(cid, "lan")
            assert (inside(one, "eth0"), inside(one, "eth1")) == (True, False)
            now = await networks.sandbox(cid)
            assert now is not None
            assert list(now.ports) == ["80/tcp"]
            await networks.connect(cid, "lan", wish)

    async def ask_from_wire(one: Sandbox) -> str:
        with pytest.raises(ConnectionRefusedError):  # nobody listens there; but somebody is there
            await ask_from(one, "10.77.0.200", 80)
        return "reached"

    alone(body)


def test_an_endpoint_that_a_crash_left_half_made_goes(tmp_path: Path) -> None:
    async def body() -> None:
        await asyncio.to_thread(wire, tmp_path, "10.77.0.200")
        cid = ("one" * 64)[:64]
        async with controller(tmp_path) as networks:
            await networks.create(wanted("lan", "10.77.0.0/24", parent="wire0"))
            one = await networks.attach(request(tmp_path, "one"))
            await networks.connect(cid, "lan", EndpointSettings())
        records = Records(tmp_path / "engine.db")
        await records.open()
        (record,) = (await records.all(SANDBOXES, SandboxRecord)).values()
        half = replace(record.endpoints[1], id="f" * 64, interface="eth2", address="10.77.0.3")
        await records.write(Put(SANDBOXES, record.id, replace(record, endpoints=(*record.endpoints, half))))
        await records.close()
        async with controller(tmp_path) as networks:
            await networks.reconcile([cid])
            kept = await networks.sandbox(cid)
            assert kept is not None
            assert (sorted(kept.endpoints), kept.endpoints["lan"].ip_address) == (["bridge", "lan"], "10.77.0.2")
            assert inside(one, "eth1")

    alone(body)


def test_one_that_starts_again_at_once_has_its_address(tmp_path: Path) -> None:
    """The kernel lets nobody have a hardware address on a parent while another has it, if only in a namespace that is
    on its way out."""

    async def body() -> None:
        await asyncio.to_thread(wire, tmp_path, "10.77.0.200")
        async with controller(tmp_path) as networks:
            await networks.create(wanted("lan", "10.77.0.0/24", parent="wire0"))
            wish = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.77.0.9"))
            for _ in range(20):
                one = await networks.attach(request(tmp_path, "one", "lan", endpoints={"lan": wish}))
                assert one.endpoints["lan"].ip_address == "10.77.0.9"
                await networks.detach(("one" * 64)[:64])

    alone(body)
