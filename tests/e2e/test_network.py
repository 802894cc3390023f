"""Networks of a swarm of five hosts: names, virtual addresses, the routing mesh, and what faults must not do."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from lab import swarm
from lab.lab import Lab
from lab.wait import until
from tests.e2e.network_load import Load, app
from tests.e2e.networks import (
    APP,
    NOTHING,
    addresses,
    backends,
    check,
    clients,
    fetched,
    get,
    left_over,
    overlay,
    remove_services,
    resolve,
    vip,
    wait_backends,
    wait_left_over,
    wait_published,
    web,
)
from tests.e2e.test_swarm import HOSTS, cli, running_on, wait_running

UDP_ECHO = (
    "import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('',5353))\n"
    "while 1: s.sendto(*s.recvfrom(99))"
)


@pytest.fixture
def net(swarm_lab: Lab) -> Iterator[str]:
    with overlay(swarm_lab) as name:
        yield name


@pytest.mark.promise("services.create.b18", "services.list.b6", "services.create.body.TaskTemplate.Networks.Target")
def test_services_find_and_reach_each_other_across_hosts(swarm_lab: Lab, net: str) -> None:
    web(swarm_lab, "web", "--network", net, replicas=5)
    inside = clients(swarm_lab, net)
    tasks, service_vip = addresses(swarm_lab, "web"), vip(swarm_lab, "web")
    assert len(tasks) == 5
    assert len({*tasks.values(), service_vip}) == 6
    assert set(running_on(swarm_lab, "web")) == set(HOSTS)
    for host, container in inside.items():
        wait_backends(swarm_lab, host, container, "web")
        assert resolve(swarm_lab, host, container, "web") == {service_vip}
        assert resolve(swarm_lab, host, container, "WEB.net") == {service_vip}
        assert resolve(swarm_lab, host, container, "tasks.web") == set(tasks.values())
        for name, address in tasks.items():
            assert resolve(swarm_lab, host, container, name) == {address}
            assert get(swarm_lab, host, container, f"http://{address}/cgi-bin/who")
        cli(swarm_lab, host).ok("exec", container, "ping", "-c", "1", "-W", "2", "web")
        assert get(swarm_lab, host, container, "http://web/cgi-bin/who")
    answers = {get(swarm_lab, "w1", inside["w1"], "http://web/cgi-bin/who").split()[1] for _ in range(40)}
    assert len(answers) == 5, "the virtual address leads to every task"


def test_names_stay_within_their_networks(swarm_lab: Lab, net: str) -> None:
    docker = cli(swarm_lab)
    docker.ok("network", "create", "-d", "overlay", "--internal", "--subnet", "10.77.0.0/24", "inner")
    try:
        web(swarm_lab, "both", "--network", "net", "--network", "inner", replicas=1)
        web(swarm_lab, "hidden", "--network", "inner", "--endpoint-mode", "dnsrr", replicas=2)
        outside, inside = clients(swarm_lab, net, "out"), clients(swarm_lab, "inner", "in")
        assert resolve(swarm_lab, "w1", outside["w1"], "hidden") == set()
        assert resolve(swarm_lab, "w1", outside["w1"], "both") == {vip(swarm_lab, "both")}
        assert resolve(swarm_lab, "w1", inside["w1"], "both") == {vip(swarm_lab, "both", "inner")}
        assert resolve(swarm_lab, "w1", inside["w1"], "hidden") == set(addresses(swarm_lab, "hidden", "inner").values())
        assert get(swarm_lab, "w1", inside["w1"], "http://hidden/cgi-bin/who")
        routes = cli(swarm_lab, "w1").ok("exec", inside["w1"], "ip", "route")
        assert "default" not in routes, "an internal network leads nowhere else"
    finally:
        remove_services(swarm_lab)
        until(lambda: docker.run("network", "rm", "inner").code == 0, timeout_s=40, what="inner to be unused")


@pytest.mark.promise(
    "services.create.body.EndpointSpec.Ports.PublishedPort", "services.create.body.EndpointSpec.Ports.TargetPort",
    "services.create.body.EndpointSpec.Ports.Protocol",
)  # fmt: skip
def test_a_published_port_answers_on_every_node(swarm_lab: Lab) -> None:
    web(swarm_lab, "pub", "-p", "8080:80", replicas=2)
    mounts = [f"--mount=type=bind,source={path},target={path},readonly" for path in ("/usr", "/lib", "/lib64")]
    cli(swarm_lab).ok(
        "service", "create", "--name", "echo", "-p", "5353:5353/udp", *mounts, "busybox", "python3", "-c", UDP_ECHO
    )
    wait_running(swarm_lab, "echo", 1)
    placed = running_on(swarm_lab, "pub")
    ports = {host: swarm_lab.host(host).address for host in HOSTS}
    for host in HOSTS:
        wait_published(swarm_lab, host, 8080)
    for host, address in ports.items():
        answers = fetched(swarm_lab, "m1", f"http://{address}:8080/cgi-bin/who", 4)
        assert all(answers), f"all are answered through {host}"
        if host in placed and host != "m1":
            clients_seen = {answer.split()[0].strip("[]").removeprefix("::ffff:") for answer in answers}
            assert clients_seen == {ports["m1"]}, "where a task runs, it sees the client's own address"
        assert _udp(swarm_lab, "w1", address) == "ping"
    remove_services(swarm_lab)
    for host in HOSTS:
        _wait_given_up(swarm_lab, host, 8080)


def _udp(lab: Lab, host: str, address: str) -> str:
    script = (
        "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(2)\n"
        "for _ in range(3):\n"
        " s.sendto(b'ping',(sys.argv[1],5353))\n"
        " try: print(s.recv(9).decode()); break\n"
        " except OSError: pass"
    )
    return lab.run(host, sys.executable, "-I", "-c", script, address).stdout.strip()


def _wait_given_up(lab: Lab, host: str, port: int) -> None:
    script = "import socket,sys; s=socket.socket(); s.settimeout(2); "
    script += "sys.exit(s.connect_ex(('127.0.0.1', int(sys.argv[1]))) == 0)"
    look = (sys.executable, "-I", "-c", script, str(port))
    until(lambda: lab.run(host, *look).returncode == 0, timeout_s=20, what=f"{host} to give port {port} up")


def test_a_dead_node_leaves_every_table(swarm_lab: Lab, net: str) -> None:
    web(swarm_lab, "web", "--network", net, replicas=5)
    inside = clients(swarm_lab, net)
    swarm_lab.power_off("w2")
    until(lambda: "w2" not in running_on(swarm_lab, "web"), timeout_s=40, what="the swarm to give w2's tasks up")
    seen = time.monotonic()
    wait_running(swarm_lab, "web", 5)
    for host in set(HOSTS) - {"w2"}:
        wait_backends(swarm_lab, host, inside[host], "web")
        assert get(swarm_lab, host, inside[host], "http://web/cgi-bin/who")
    assert time.monotonic() - seen < 30
    swarm_lab.start("w2")
    swarm.wait_ready(swarm_lab, 5)


def test_traffic_goes_on_while_daemons_restart(swarm_lab: Lab, net: str) -> None:
    app(swarm_lab, "web", "--network", net, "-p", "8082:80", replicas=2)
    inside = clients(swarm_lab, net)
    wait_published(swarm_lab, "w1", 8082)
    with Load(swarm_lab, "w1", ("127.0.0.1", 8082)) as load:
        for host in ("w1", "w2"):
            swarm_lab.kill(host)
            swarm_lab.start(host)
        load.clean(at_least=100)
    assert resolve(swarm_lab, "w1", inside["w1"], "web") == {vip(swarm_lab, "web")}
    assert get(swarm_lab, "w1", inside["w1"], "http://web/")


def test_what_others_delete_is_put_back(swarm_lab: Lab, net: str) -> None:
    web(swarm_lab, "web", "--network", net, "-p", "8083:80", replicas=5)
    inside = clients(swarm_lab, net)
    assert swarm_lab.run("w1", "nft", "flush", "ruleset").returncode == 0
    flushed = time.monotonic()
    until(lambda: "_mesh" in swarm_lab.run("w1", "nft", "list", "tables").stdout, timeout_s=5, what="the mesh's table")
    assert time.monotonic() - flushed < 1
    assert all(fetched(swarm_lab, "w1", "http://127.0.0.1:8083/cgi-bin/who", 3))
    network_id = cli(swarm_lab).ok("network", "inspect", "--format", "{{.Id}}", net)
    vxlan = f"/run/shoal/overlay/{network_id}"
    swarm_lab.run("w1", "nsenter", f"--net={vxlan}", "ip", "neigh", "flush", "dev", "vxlan0", "nud", "permanent")
    pid = str(cli(swarm_lab, "w1").inspect(inside["w1"])["State"]["Pid"])
    swarm_lab.run("w1", "nsenter", "-t", pid, "-n", "nft", "delete", "table", "ip", "shoal_lb")
    report = check(swarm_lab, "w1")
    assert len(report["Repairs"]) == 2, report
    assert backends(swarm_lab, "w1", inside["w1"], vip(swarm_lab, "web")) == set(addresses(swarm_lab, "web").values())
    for address in addresses(swarm_lab, "web").values():
        assert get(swarm_lab, "w1", inside["w1"], f"http://{address}/cgi-bin/who")
    assert check(swarm_lab, "w1")["Repairs"] == []


def test_nothing_of_a_network_is_left(swarm_lab: Lab) -> None:
    docker = cli(swarm_lab)
    for host in HOSTS:
        wait_left_over(swarm_lab, host, NOTHING)
    docker.ok("network", "create", "-d", "overlay", "brief")
    web(swarm_lab, "web", "--network", "brief", "-p", "8084:80", replicas=5)
    assert all(left_over(swarm_lab, host) != NOTHING for host in HOSTS)
    refused = docker.bad("network", "rm", "brief")
    assert "in use" in refused.err
    docker.ok("service", "rm", "web")
    until(lambda: docker.run("network", "rm", "brief").code == 0, timeout_s=30, what="brief to be unused")
    for host in HOSTS:
        wait_left_over(swarm_lab, host, NOTHING)


def test_an_exhausted_pool_is_said_and_waited_for(swarm_lab: Lab) -> None:
    docker = cli(swarm_lab)
    docker.ok("network", "create", "-d", "overlay", "--subnet", "10.78.0.0/29", "small")
    try:
        # Six addresses: the gateway, the service's own, four tasks.
        docker.ok(
            "service", "create", "--name", "many", "--network", "small", "--replicas", "5", "busybox", "sh", "-c", APP
        )
        wait_running(swarm_lab, "many", 4)
        answer = docker.http("GET", "/v1.24/tasks").value
        waiting = [task for task in answer if task["Status"]["State"] == "new"]
        assert [task["Status"]["Err"] for task in waiting] == ["no available IPv4 addresses on network small"]
        docker.ok("service", "scale", "many=4")
        docker.ok("service", "scale", "many=3")
        docker.ok("service", "scale", "many=4")
        wait_running(swarm_lab, "many", 4)
    finally:
        remove_services(swarm_lab)
        until(lambda: docker.run("network", "rm", "small").code == 0, timeout_s=40, what="small to be unused")


def test_a_local_only_service_is_served_where_it_runs(swarm_lab: Lab) -> None:
    web(swarm_lab, "near", "-p", "8085:80", "--label", "shoal.mesh=local", replicas=1)
    (home,) = running_on(swarm_lab, "near")
    wait_published(swarm_lab, home, 8085)
    for host in set(HOSTS) - {home}:
        assert fetched(swarm_lab, host, "http://127.0.0.1:8085/cgi-bin/who") == [""]


def test_encryption_is_refused(swarm_lab: Lab) -> None:
    refused = cli(swarm_lab).bad("network", "create", "-d", "overlay", "--opt", "encrypted", "secret")
    assert "encrypted overlay networks are not supported" in refused.err
    assert "secret" not in cli(swarm_lab).ok("network", "ls")
