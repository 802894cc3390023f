"""Networks over the real API of one host: every field, body key, filter and status of the document."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab.lab import Lab
from lab.unixhttp import Answer
from tests.e2e.client import Docker
from tests.e2e.fields import Kinds, assert_fields, promises

LISTED: dict[str, Kinds] = {
    "[].Name": str,
    "[].Id": str,
    "[].Scope": str,
    "[].Driver": str,
    "[].EnableIPv6": bool,
    "[].Internal": bool,
    "[].IPAM": dict,
    "[].IPAM.Driver": str,
    "[].IPAM.Config[]": dict,
    "[].IPAM.Config[].Subnet": str,
    "[].Containers": dict,
    "[].Containers.<container id>": dict,
    "[].Containers.<container id>.EndpointID": str,
    "[].Containers.<container id>.MacAddress": str,
    "[].Containers.<container id>.IPv4Address": str,
    "[].Containers.<container id>.IPv6Address": str,
    "[].Options": dict,
    "[].Options.<option>": str,
}
INSPECTED: dict[str, Kinds] = {
    "Name": str,
    "Id": str,
    "Scope": str,
    "Driver": str,
    "EnableIPv6": bool,
    "IPAM": dict,
    "IPAM.Driver": str,
    "IPAM.Config[]": dict,
    "IPAM.Config[].Subnet": str,
    "IPAM.Config[].Gateway": str,
    "IPAM.Options": dict,
    "IPAM.Options.<option>": str,
    "Internal": bool,
    "Containers": dict,
    "Containers.<container id>": dict,
    "Containers.<container id>.Name": str,
    "Containers.<container id>.EndpointID": str,
    "Containers.<container id>.MacAddress": str,
    "Containers.<container id>.IPv4Address": str,
    "Containers.<container id>.IPv6Address": str,
    "Options": dict,
    "Options.<option>": str,
    "Labels": dict,
    "Labels.<label>": str,
}


@pytest.fixture(autouse=True)
def _no_networks(docker: Docker) -> Iterator[None]:
    yield
    if left := docker.ok("ps", "-aq").split():
        docker.ok("rm", "-f", *left)
    if own := docker.ok("network", "ls", "-q", "--filter", "type=custom").split():
        docker.ok("network", "rm", *own)


def create(docker: Docker, **body: Any) -> Answer:
    return docker.http("POST", "/v1.24/networks/create", body)


def inspect(docker: Docker, name: str) -> Any:
    answer = docker.http("GET", f"/v1.24/networks/{name}")
    assert answer.status == 200
    return answer.value


@pytest.mark.promise(
    *promises("networks.inspect", INSPECTED),
    *promises("networks.list", LISTED),
    "networks.inspect.b1",
    "networks.inspect.b3",
    "networks.list.b9",
    "networks.create.b1",
    "networks.create.status.201",
    "networks.create.body.Name",
    "networks.create.body.Driver",
    "networks.create.body.CheckDuplicate",
    "networks.create.body.Labels",
    "networks.create.body.Options",
    "networks.create.body.IPAM",
    "networks.create.body.IPAM.Driver",
    "networks.create.body.IPAM.Config",
    "networks.create.body.IPAM.Config.Subnet",
    "networks.create.body.IPAM.Config.IPRange",
    "networks.create.body.IPAM.Config.Gateway",
    "networks.create.body.IPAM.Config.AuxAddress",
    "networks.create.body.IPAM.Options",
    "networks.create.response.Id",
    "networks.create.response.Warning",
)
def test_everything_of_a_network_is_shown(docker: Docker) -> None:
    made = create(
        docker,
        Name="full",
        CheckDuplicate=True,
        Driver="bridge",
        Internal=False,
        EnableIPv6=False,
        IPAM={
            "Driver": "default",
            "Options": {"foo": "bar"},
            "Config": [
                {
                    "Subnet": "172.30.0.0/24",
                    "IPRange": "172.30.0.128/25",
                    "Gateway": "172.30.0.5",
                    "AuxAddress": {"printer": "172.30.0.128"},
                }
            ],
        },
        Options={"com.docker.network.driver.mtu": "1400"},
        Labels={"tier": "gold"},
    )
    assert made.status == 201
    assert type(made.value["Id"]) is str
    assert made.value["Warning"] == ""
    identity = docker.ok("run", "-d", "--name", "one", "--network", "full", "busybox", "sleep", "99")
    shown = inspect(docker, "full")
    assert_fields(shown, INSPECTED)
    assert inspect(docker, made.value["Id"]) == shown
    assert shown["Id"] == made.value["Id"]
    assert (shown["Name"], shown["Driver"], shown["Scope"]) == ("full", "bridge", "local")
    assert shown["Labels"] == {"tier": "gold"}
    assert shown["Options"] == {"com.docker.network.driver.mtu": "1400"}
    assert shown["IPAM"]["Options"] == {"foo": "bar"}
    config = shown["IPAM"]["Config"][0]
    assert (config["Subnet"], config["IPRange"], config["Gateway"]) == (
        "172.30.0.0/24",
        "172.30.0.128/25",
        "172.30.0.5",
    )
    member = shown["Containers"][identity]
    assert member["Name"] == "one"
    address = ipaddress.ip_interface(member["IPv4Address"])
    assert address.network == ipaddress.ip_network("172.30.0.0/24")
    # The first of the range is the auxiliary address: not given away.
    assert address.ip == ipaddress.ip_address("172.30.0.129")
    links = docker.ok("exec", "one", "ip", "link", "show", "eth0")
    assert "mtu 1400" in links
    assert member["MacAddress"] in links
    assert "172.30.0.5" in docker.ok("exec", "one", "ip", "route")

    listed = docker.http("GET", "/v1.24/networks")
    assert_fields(listed.value, LISTED)
    (same,) = [each for each in listed.value if each["Name"] == "full"]
    assert same["Containers"][identity]["IPv4Address"] == member["IPv4Address"]


@pytest.mark.promise(
    "networks.create.b2",
    "networks.create.b3",
    "networks.create.b4",
    "networks.create.b5",
    "networks.create.b6",
    "networks.create.b7",
    "networks.create.b10",
    "networks.create.b11",
    "networks.create.status.403",
    "networks.create.status.404",
)
def test_defaults_and_refusals_of_create(docker: Docker) -> None:
    first = create(docker, Name="plain").value["Id"]
    assert len(first) == 64
    shown = inspect(docker, "plain")
    assert (shown["Driver"], shown["IPAM"]["Driver"], shown["Internal"]) == ("bridge", "default", False)
    second = create(docker, Name="plain")
    assert second.status == 201  # names need not be unique when nobody asks
    assert second.value["Id"] != first
    assert create(docker, Name="plain", CheckDuplicate=True).status == 409
    ambiguous = docker.http("GET", "/v1.24/networks/plain")
    assert (ambiguous.status, "ambiguous" in ambiguous.message) == (400, True)
    for body in ({}, {"Name": ""}, {"Name": " "}, {"Name": 5}, {"Name": "x", "IPAM": "y"}):
        assert create(docker, **body).status == 400, body
    for name in ("bridge", "host", "none"):
        assert create(docker, Name=name).status == 403
    assert create(docker, Name="x", Driver="host").status == 403
    assert create(docker, Name="x", Driver="nosuch").status == 404
    overlap = {"Config": [{"Subnet": shown["IPAM"]["Config"][0]["Subnet"]}]}
    assert "overlaps" in create(docker, Name="x", IPAM=overlap).message


@pytest.mark.promise("networks.create.b8", "networks.create.body.Internal")
def test_an_internal_network_leads_nowhere(single: Lab, docker: Docker) -> None:
    assert create(docker, Name="inside", Internal=True).status == 201
    assert create(docker, Name="outside").status == 201
    for name in ("inside", "outside"):
        docker.ok("run", "-d", "--name", f"on-{name}", "--network", name, "busybox", "sleep", "99")
    assert inspect(docker, "inside")["Internal"] is True
    assert "default" not in docker.ok("exec", "on-inside", "ip", "route")
    assert docker.run("exec", "on-inside", "ping", "-c1", "-W1", "10.99.0.250").code != 0
    assert docker.run("exec", "on-outside", "ping", "-c1", "-W3", "10.99.0.250").code == 0


@pytest.mark.promise(
    "networks.connect.b1",
    "networks.connect.b2",
    "networks.connect.b5",
    "networks.connect.status.200",
    "networks.connect.status.404",
    "networks.connect.body.Container",
    "networks.connect.body.EndpointConfig",
    "networks.connect.body.EndpointConfig.IPAMConfig",
    "networks.connect.body.EndpointConfig.IPAMConfig.IPv4Address",
    "networks.disconnect.b1",
    "networks.disconnect.b2",
    "networks.disconnect.b3",
    "networks.disconnect.b5",
    "networks.disconnect.status.200",
    "networks.disconnect.status.404",
    "networks.disconnect.body.Container",
    "networks.disconnect.body.Force",
)
def test_connect_and_disconnect(docker: Docker) -> None:
    create(docker, Name="blue", IPAM={"Config": [{"Subnet": "172.31.0.0/24"}]})
    identity = docker.ok("run", "-d", "--name", "one", "busybox", "sleep", "99")
    settings = {"IPAMConfig": {"IPv4Address": "172.31.0.77"}, "Aliases": ["uno"]}

    def post(verb: str, network: str, **body: Any) -> int:
        return docker.http("POST", f"/v1.24/networks/{network}/{verb}", body).status

    assert post("connect", "blue", Container="one", EndpointConfig=settings) == 200
    assert inspect(docker, "blue")["Containers"][identity]["IPv4Address"] == "172.31.0.77/24"
    assert "172.31.0.77/24" in docker.ok("exec", "one", "ip", "addr")
    docker.ok("run", "--rm", "--network", "blue", "busybox", "ping", "-c1", "-W3", "uno")
    assert post("disconnect", "blue", Container=identity) == 200
    assert inspect(docker, "blue")["Containers"] == {}
    assert "172.31.0.77" not in docker.ok("exec", "one", "ip", "addr")
    assert post("connect", "blue", Container=identity) == 200
    assert post("disconnect", "blue", Container="one", Force=True) == 200
    for verb in ("connect", "disconnect"):
        assert post(verb, "blue", Container="nobody") == 404
        assert post(verb, "nowhere", Container="one") == 404
        assert post(verb, "blue", Container=5) == 400
        assert post(verb, "blue") == 400


@pytest.mark.promise(
    "networks.connect.b4",
    "networks.connect.status.403",
    "networks.disconnect.b4",
    "networks.disconnect.status.403",
)
def test_networks_of_the_swarm_are_not_for_connect(single: Lab, docker: Docker) -> None:
    docker.ok("run", "-d", "--name", "one", "busybox", "sleep", "99")
    docker.ok("swarm", "init", "--advertise-addr", single.host("m1").address)
    try:
        docker.ok("network", "create", "-d", "overlay", "wide")
        for verb in ("connect", "disconnect"):
            answer = docker.http("POST", f"/v1.24/networks/wide/{verb}", {"Container": "one"})
            assert answer.status == 403, answer.body
            assert "operation not supported for swarm scoped networks" in answer.message
        docker.ok("network", "rm", "wide")
    finally:
        docker.ok("swarm", "leave", "--force")


@pytest.mark.promise(
    "networks.list.b1",
    "networks.list.b2",
    "networks.list.b3",
    "networks.list.b4",
    "networks.list.b5",
    "networks.list.b6",
    "networks.list.b7",
    "networks.list.query.filters",
    "networks.list.query.filters.driver",
    "networks.list.query.filters.id",
    "networks.list.query.filters.label",
    "networks.list.query.filters.name",
    "networks.list.query.filters.type",
)
def test_filters(docker: Docker) -> None:
    blue = create(docker, Name="blue", Labels={"tier": "gold"}).value["Id"]
    create(docker, Name="green", Labels={"tier": "tin"})

    def names(filters: dict[str, Any]) -> list[str]:
        answer = docker.http("GET", "/v1.24/networks?filters=" + json.dumps(filters, separators=(",", ":")))
        assert answer.status == 200, answer.body
        return sorted(each["Name"] for each in answer.value)

    assert names({"driver": ["bridge"]}) == ["blue", "bridge", "green"]
    assert names({"driver": ["null"]}) == ["none"]
    assert names({"id": [blue]}) == names({"id": [blue[3:20]]}) == ["blue"]
    assert names({"label": ["tier"]}) == ["blue", "green"]
    assert names({"label": ["tier=gold"]}) == ["blue"]
    assert names({"name": ["ee"]}) == ["green"]
    assert names({"type": ["custom"]}) == names({"type": {"custom": True}}) == ["blue", "green"]
    assert names({"type": ["builtin"]}) == ["bridge", "host", "none"]
    for bad in ('{"colour":["red"]}', '{"type":["odd"]}', "{"):
        assert docker.http("GET", f"/v1.24/networks?filters={bad}").status == 400, bad
