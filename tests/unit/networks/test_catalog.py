"""Which networks can be made, found, listed and removed."""

from __future__ import annotations

import msgspec
import pytest

from api.errors import Conflict, Forbidden, InvalidArgument, NotFound, NotSupported
from api.types.network import IPAM, IPAMConfig, NetworkCreate
from api.wire.ipam import AddressPools
from base.ids import hex_id
from worker.engine.networks.catalog import Catalog, matcher, shown
from worker.engine.networks.records import EndpointRecord, NetworkRecord, SandboxRecord


def plan(catalog: Catalog, name: str = "blue", **body: object) -> NetworkRecord:
    request = NetworkCreate(name=name, **body)  # type: ignore[arg-type]
    return catalog.plan(request, hex_id(), 1, AddressPools(), [])


def config(**fields: str) -> IPAM:
    return IPAM(config=[IPAMConfig(**fields)])  # type: ignore[arg-type]


@pytest.fixture
def catalog() -> Catalog:
    made = Catalog()
    for name, driver in (("host", "host"), ("none", "null")):
        made.add(NetworkRecord(id=hex_id(), name=name, driver=driver))
    made.add(
        NetworkRecord(
            id=hex_id(), name="bridge", driver="bridge", bridge="shoal0", subnet="172.17.0.0/16", gateway="172.17.0.1"
        )
    )
    return made


@pytest.mark.promise(
    "networks.create.b3", "networks.create.b4", "networks.create.body.Driver", "networks.create.body.IPAM.Driver"
)
def test_defaults(catalog: Catalog) -> None:
    made = plan(catalog)
    assert made.driver == "bridge"
    assert made.ipam_driver == "default"
    assert made.subnet == "172.18.0.0/16"
    assert made.gateway == "172.18.0.1"
    assert made.bridge == f"br-{made.id[:12]}"
    assert len(made.bridge) == 15


@pytest.mark.promise(
    "networks.create.body.IPAM.Config.Subnet",
    "networks.create.body.IPAM.Config.IPRange",
    "networks.create.body.IPAM.Config.Gateway",
    "networks.create.body.Labels",
    "networks.create.body.Options",
)
def test_what_is_asked_for_is_shown(catalog: Catalog) -> None:
    catalog.add(
        made := plan(
            catalog,
            ipam=config(subnet="10.9.0.0/24", ip_range="10.9.0.128/25", gateway="10.9.0.9"),
            labels={"a": "b"},
            options={"com.docker.network.driver.mtu": "1400"},
        )
    )
    json = msgspec.to_builtins(shown(catalog.resolve("blue"), []))
    assert json["IPAM"]["Config"] == [{"Subnet": "10.9.0.0/24", "IPRange": "10.9.0.128/25", "Gateway": "10.9.0.9"}]
    assert json["Labels"] == {"a": "b"}
    assert json["Options"] == {"com.docker.network.driver.mtu": "1400"}
    assert json["Id"] == made.id
    assert json["EnableIPv6"] is False
    assert json["Containers"] == {}
    assert made.mtu == 1400


@pytest.mark.promise("networks.create.b2", "networks.create.b10", "networks.create.b11")
@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ({"name": ""}, InvalidArgument, "name is empty"),
        ({"name": "bridge"}, Forbidden, "not permitted on predefined bridge network"),
        ({"driver": "host"}, Forbidden, 'only one instance of "host" network is allowed'),
        ({"driver": "nope"}, NotFound, 'plugin "nope" not found'),
        ({"ipam": IPAM(driver="nope")}, NotFound, 'plugin "nope" not found'),
        ({"enable_ipv6": True}, NotSupported, "EnableIPv6"),
        ({"ipam": config(subnet="2001:db8::/64")}, NotSupported, "IPv6"),
        ({"ipam": config(gateway="10.0.0.1")}, InvalidArgument, "need a Subnet"),
        ({"ipam": config(subnet="172.17.5.0/24")}, Forbidden, "Pool overlaps"),
        ({"options": {"com.docker.network.driver.mtu": "1"}}, InvalidArgument, "mtu"),
        ({"options": {"com.docker.network.bridge.name": 'a"; drop'}}, InvalidArgument, "bridge name"),
        ({"options": {"com.docker.network.bridge.name": "shoal0"}}, Conflict, "already used"),
        ({"options": {"com.docker.network.bridge.enable_icc": "maybe"}}, InvalidArgument, "enable_icc"),
    ],
)
def test_networks_that_cannot_be(catalog: Catalog, body: dict[str, object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        plan(catalog, **{"name": "blue", **body})  # type: ignore[arg-type]


@pytest.mark.promise("networks.create.b5", "networks.create.b6", "networks.create.body.CheckDuplicate")
def test_names_may_be_twice_unless_checked_and_are_then_ambiguous(catalog: Catalog) -> None:
    catalog.add(first := plan(catalog))
    with pytest.raises(Conflict, match="network with name blue already exists"):
        plan(catalog, check_duplicate=True)
    catalog.add(plan(catalog))
    with pytest.raises(InvalidArgument, match="network blue is ambiguous"):
        catalog.resolve("blue")
    assert catalog.resolve(first.id) == first


def test_found_by_name_id_and_prefix(catalog: Catalog) -> None:
    catalog.add(made := plan(catalog))
    assert catalog.resolve("blue") is made
    assert catalog.resolve(made.id[:12]) is made
    assert catalog.resolve("default").name == "bridge"
    for ref in ("nope", ""):
        with pytest.raises(NotFound, match=f"network {ref} not found"):
            catalog.resolve(ref)


@pytest.mark.promise("networks.remove.b2")
def test_removal_is_refused(catalog: Catalog) -> None:
    for name in ("bridge", "host", "none"):
        with pytest.raises(Forbidden, match=f"{name} is a pre-defined network and cannot be removed"):
            catalog.check_removal(catalog.resolve(name), in_use=False)
    catalog.add(made := plan(catalog))
    with pytest.raises(Forbidden, match="has active endpoints"):
        catalog.check_removal(made, in_use=True)
    catalog.check_removal(made, in_use=False)


@pytest.mark.promise("networks.inspect.b3", "networks.list.b9")
def test_containers_are_shown(catalog: Catalog) -> None:
    bridge = catalog.resolve("bridge")
    there = EndpointRecord(
        id="e1", network_id=bridge.id, network_name="bridge", address="172.17.0.2", prefix_len=16, mac="02:42:ac:11:0:2"
    )
    box = SandboxRecord(
        id="s", container_id="c1", container_name="web", mode="bridge", directory="/x", endpoints=(there,)
    )
    assert msgspec.to_builtins(shown(bridge, [box]))["Containers"] == {
        "c1": {
            "Name": "web",
            "EndpointID": "e1",
            "MacAddress": "02:42:ac:11:0:2",
            "IPv4Address": "172.17.0.2/16",
            "IPv6Address": "",
        }
    }


@pytest.mark.promise(
    "networks.list.b1",
    "networks.list.b2",
    "networks.list.b3",
    "networks.list.b4",
    "networks.list.b5",
    "networks.list.b6",
    "networks.list.query.filters.driver",
    "networks.list.query.filters.id",
    "networks.list.query.filters.label",
    "networks.list.query.filters.name",
    "networks.list.query.filters.type",
)
def test_filters(catalog: Catalog) -> None:
    catalog.add(blue := plan(catalog, "blue", labels={"tier": "front"}))
    catalog.add(plan(catalog, "green"))

    def names(**filters: list[str]) -> list[str]:
        wanted = matcher(filters, lambda record: record is blue)
        return sorted(record.name for record in catalog.networks.values() if wanted(record))

    assert names(driver=["null"]) == ["none"]
    assert names(id=[blue.id[3:9]]) == ["blue"]
    assert names(name=["lu", "ree"]) == ["blue", "green"]
    assert names(label=["tier"]) == names(label=["tier=front"]) == ["blue"]
    assert names(label=["tier=back"]) == []
    assert names(type=["custom"]) == ["blue", "green"]
    assert names(type=["builtin"]) == ["bridge", "host", "none"]
    assert names(type=["custom"], driver=["host"]) == []
    assert names(dangling=["true"]) == ["green"]
    for bad in ({"colour": ["red"]}, {"type": ["odd"]}, {"dangling": ["maybe"]}):
        with pytest.raises(InvalidArgument):
            names(**bad)
