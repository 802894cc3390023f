"""Services and tasks on swarm networks as the API shows them (v1.24 sections 3.9 and 3.10), field by field."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from lab.lab import Lab
from lab.wait import until
from tests.e2e.client import Docker
from tests.e2e.fields import Kinds, assert_fields, promises
from tests.e2e.networks import NOTHING, left_over

ENDPOINT: dict[str, Kinds] = {
    "Endpoint.VirtualIPs[]": dict,
    "Endpoint.VirtualIPs[].NetworkID": str,
    "Endpoint.VirtualIPs[].Addr": str,
}
_PLACE = "NetworksAttachments[]"
_NETWORK = f"{_PLACE}.Network"
PLACES: dict[str, Kinds] = {
    _PLACE: dict,
    _NETWORK: dict,
    f"{_NETWORK}.ID": str,
    f"{_NETWORK}.Version": dict,
    f"{_NETWORK}.Version.Index": int,
    f"{_NETWORK}.CreatedAt": str,
    f"{_NETWORK}.UpdatedAt": str,
    f"{_NETWORK}.Spec": dict,
    f"{_NETWORK}.Spec.Name": str,
    f"{_NETWORK}.Spec.Labels": dict,
    f"{_NETWORK}.Spec.Labels.<label>": str,
    f"{_NETWORK}.Spec.DriverConfiguration": dict,
    f"{_NETWORK}.Spec.IPAMOptions": dict,
    f"{_NETWORK}.Spec.IPAMOptions.Driver": dict,
    f"{_NETWORK}.Spec.IPAMOptions.Configs[]": dict,
    f"{_NETWORK}.Spec.IPAMOptions.Configs[].Subnet": str,
    f"{_NETWORK}.Spec.IPAMOptions.Configs[].Gateway": str,
    f"{_NETWORK}.DriverState": dict,
    f"{_NETWORK}.DriverState.Name": str,
    f"{_NETWORK}.DriverState.Options": dict,
    f"{_NETWORK}.DriverState.Options.<option>": str,
    f"{_NETWORK}.IPAMOptions": dict,
    f"{_NETWORK}.IPAMOptions.Driver": dict,
    f"{_NETWORK}.IPAMOptions.Driver.Name": str,
    f"{_NETWORK}.IPAMOptions.Configs[]": dict,
    f"{_NETWORK}.IPAMOptions.Configs[].Subnet": str,
    f"{_NETWORK}.IPAMOptions.Configs[].Gateway": str,
    f"{_PLACE}.Addresses[]": str,
}


def in_list(fields: dict[str, Kinds]) -> dict[str, Kinds]:
    return {f"[].{path}": kinds for path, kinds in fields.items()}


def body(name: str, *networks: Any, older: tuple[Any, ...] = (), mode: str = "vip", port: int = 0) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"Mode": mode}
    if port:
        endpoint["Ports"] = [{"Protocol": "tcp", "PublishedPort": port, "TargetPort": 80}]
    return {
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {"Image": "busybox", "Command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1d & wait"]},
            "Networks": list(networks),
        },
        "Networks": list(older),
        "EndpointSpec": endpoint,
    }


def create(docker: Docker, spec: dict[str, Any]) -> str:
    answer = docker.http("POST", "/v1.24/services/create", spec)
    assert answer.status == 201, answer.body
    return str(answer.value["ID"])


def get(docker: Docker, path: str) -> Any:
    answer = docker.http("GET", f"/v1.24{path}")
    assert answer.status == 200, answer.body
    return answer.value


def tasks_of(docker: Docker, service: str, state: str = "running") -> list[dict[str, Any]]:
    wanted = quote(json.dumps({"service": [service], "desired-state": ["running"]}))
    return [task for task in get(docker, f"/tasks?filters={wanted}") if task["Status"]["State"] == state]


@pytest.mark.promise(
    *promises("services.list", in_list(ENDPOINT)),
    *promises("services.inspect", ENDPOINT),
    *promises("tasks.list", in_list(PLACES)),
    *promises("tasks.inspect", PLACES),
    "services.create.body.TaskTemplate.Networks",
    "services.create.body.Networks",
    "services.create.body.EndpointSpec",
    "services.create.body.EndpointSpec.Mode",
    "services.create.body.EndpointSpec.Ports",
    "services.update.b18",
    "services.update.body.Networks",
    "services.update.body.EndpointSpec",
    "services.update.body.EndpointSpec.Mode",
    "services.update.body.EndpointSpec.Ports",
    "services.update.body.EndpointSpec.Ports.Protocol",
    "services.update.body.EndpointSpec.Ports.PublishedPort",
    "services.update.body.EndpointSpec.Ports.TargetPort",
)
def test_places_and_endpoints_field_by_field(single: Lab, docker: Docker) -> None:
    docker.ok("swarm", "init", "--advertise-addr", single.host("m1").address)
    try:
        ids = {}
        for number, name in enumerate(("one", "two")):
            wish = {"Config": [{"Subnet": f"10.88.{number}.0/24", "Gateway": f"10.88.{number}.9"}]}
            made = docker.http(
                "POST",
                "/v1.24/networks/create",
                {"Name": name, "Driver": "overlay", "IPAM": wish, "Labels": {"a": "b"}},
            )
            assert made.status == 201, made.body
            ids[name] = made.value["Id"]
        service = create(docker, body("web", {"Target": "one"}, older=("two",), port=8090))
        until(lambda: len(tasks_of(docker, "web")) == 1, timeout_s=20, what="a task of web")
        _check_shown(docker, service, ids)
        _check_update(docker, service, ids)
    finally:
        docker.ok("swarm", "leave", "--force")
    until(lambda: left_over(single, "m1") == NOTHING, timeout_s=10, what="nothing to be left after leaving")
    assert {row["Name"] for row in docker.rows("network", "ls")} == {"bridge", "host", "none", "docker_gwbridge"}
    docker.ok("network", "rm", "docker_gwbridge")


def _check_shown(docker: Docker, service: str, ids: dict[str, str]) -> None:
    inspected = get(docker, f"/services/{service}")
    assert_fields(inspected, ENDPOINT)
    assert_fields(get(docker, "/services"), in_list(ENDPOINT))
    ingress = get(docker, "/networks/ingress")["Id"]
    assert {vip["NetworkID"] for vip in inspected["Endpoint"]["VirtualIPs"]} == {ingress, *ids.values()}
    assert inspected["Endpoint"]["Ports"] == [
        {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8090, "PublishMode": "ingress"}
    ]
    (listed,) = tasks_of(docker, "web")
    shown = get(docker, f"/tasks/{listed['ID']}")
    assert_fields(shown, PLACES)
    assert_fields([listed], in_list(PLACES))
    places = {place["Network"]["Spec"]["Name"]: place for place in shown["NetworksAttachments"]}
    assert set(places) == {"one", "two", "ingress"}
    network = places["one"]["Network"]
    assert network["ID"] == ids["one"]
    assert network["IPAMOptions"]["Configs"] == [{"Subnet": "10.88.0.0/24", "Gateway": "10.88.0.9"}]
    assert network["Spec"]["Labels"] == {"a": "b"}
    container = docker.inspect(shown["Status"]["ContainerStatus"]["ContainerID"])
    for name, identity in ids.items():
        (address,) = places[name]["Addresses"]
        realised = container["NetworkSettings"]["Networks"][name]
        assert (realised["NetworkID"], f"{realised['IPAddress']}/{realised['IPPrefixLen']}") == (identity, address)
    inside = docker.ok("exec", container["Id"], "ip", "-4", "-o", "addr")
    assert all(place["Addresses"][0] in inside for place in places.values())
    assert get(docker, "/networks/one")["Containers"][container["Id"]]["IPv4Address"] == places["one"]["Addresses"][0]


def _check_update(docker: Docker, service: str, ids: dict[str, str]) -> None:
    def update(spec: dict[str, Any]) -> int:
        version = get(docker, f"/services/{service}")["Version"]["Index"]
        return docker.http("POST", f"/v1.24/services/{service}/update?version={version}", spec).status

    def settled(networks: set[str]) -> bool:
        tasks = tasks_of(docker, "web")
        shown = [{place["Network"]["ID"] for place in task.get("NetworksAttachments", [])} for task in tasks]
        return shown == [networks]

    assert update(body("web", mode="dnsrr", port=8090)) == 400, "ports need a virtual address"
    assert update(body("web", older=("nosuch",))) == 404
    assert update(body("web", older=("two",), mode="dnsrr")) == 200
    until(lambda: settled({ids["two"]}), timeout_s=30, what="a task on two alone")
    shown = get(docker, f"/services/{service}")["Endpoint"]
    assert "VirtualIPs" not in shown
    assert "Ports" not in shown
    assert update(body("web", {"Target": ids["one"][:12]}, port=8091)) == 200
    ingress = get(docker, "/networks/ingress")["Id"]
    until(lambda: settled({ids["one"], ingress}), timeout_s=30, what="a task on one, published")
    assert get(docker, f"/services/{service}")["Endpoint"]["Ports"][0]["PublishedPort"] == 8091
