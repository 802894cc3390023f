"""Networks of a swarm of five hosts: names, virtual addresses, the routing mesh, and what faults must not do."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab import swarm
from lab.lab import Lab
from lab.wait import until
from tests.e2e.test_swarm import HOSTS, cli, running_on, wait_running

APP = (
    "mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho; echo $REMOTE_ADDR $(hostname)\\n' > /www/cgi-bin/who; "
    "chmod +x /www/cgi-bin/who; trap 'sleep 1; exit 0' TERM; httpd -f -p 80 -h /www & wait"
)
"""Says who asked and who answers; when it is told to stop, it serves on for a moment, as a well-behaved server does."""
UDP_ECHO = (
    "import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('',5353))\n"
    "while 1: s.sendto(*s.recvfrom(99))"
)


@pytest.fixture
def net(swarm_lab: Lab) -> Iterator[str]:
    """An overlay network; it and what is on it are removed after the test."""
    cli(swarm_lab).ok("network", "create", "-d", "overlay", "net")
    yield "net"
    remove_services(swarm_lab)
    until(lambda: cli(swarm_lab).run("network", "rm", "net").code == 0, timeout_s=40, what="net to be unused")


def remove_services(lab: Lab) -> None:
    names = cli(lab).ok("service", "ls", "-q").split()
    if names:
        cli(lab).ok("service", "rm", *names)


def web(lab: Lab, name: str, *args: str, replicas: int = 3) -> None:
    cli(lab).ok("service", "create", "--name", name, "--replicas", str(replicas), *args, "busybox", "sh", "-c", APP)
    wait_running(lab, name, replicas)


def clients(lab: Lab, network: str, name: str = "cli") -> dict[str, str]:
    """A container on the network on each host: host to container."""
    sleeper = ("busybox", "sh", "-c", "trap 'exit 0' TERM; sleep 1d & wait")
    cli(lab).ok("service", "create", "--name", name, "--network", network, "--mode", "global", *sleeper)
    wait_running(lab, name, len(HOSTS))
    label = f"label=com.docker.swarm.service.name={name}"
    return {host: cli(lab, host).ok("ps", "-q", "--filter", label) for host in HOSTS}


def addresses(lab: Lab, service: str, network: str = "net") -> dict[str, str]:
    """Name to address on the network, of the tasks that run and are meant to."""
    answer = cli(lab).http("GET", '/v1.24/tasks?filters={"desired-state":["running"],"service":["' + service + '"]}')
    assert answer.status == 200, answer.message
    found = {}
    for task in answer.value:
        if task["Status"]["State"] == "running":
            for place in task["NetworksAttachments"]:
                if place["Network"]["Spec"]["Name"] == network:
                    found[task["Name"]] = place["Addresses"][0].partition("/")[0]
    return found


def vip(lab: Lab, service: str, network: str = "net") -> str:
    network_id = cli(lab).ok("network", "inspect", "--format", "{{.Id}}", network)
    vips = cli(lab).http("GET", f"/v1.24/services/{service}").value["Endpoint"]["VirtualIPs"]
    (found,) = [each["Addr"].partition("/")[0] for each in vips if each["NetworkID"] == network_id]
    return str(found)


def resolve(lab: Lab, host: str, container: str, name: str) -> set[str]:
    """What a name leads to inside a container; empty for nothing."""
    done = cli(lab, host).run("exec", container, "nslookup", "-type=a", name)
    return set(re.findall(r"Address: (\d+\.\d+\.\d+\.\d+)\s", done.out + "\n"))


def get(lab: Lab, host: str, container: str, url: str) -> str:
    """What a GET from inside a container says; empty if nothing answers."""
    return cli(lab, host).run("exec", container, "timeout", "3", "wget", "-q", "-O", "-", url).out.strip()


def backends(lab: Lab, host: str, container: str, service_vip: str) -> set[str]:
    """Where a container's own table sends connections to a virtual address, as the kernel says."""
    pid = cli(lab, host).inspect(container)["State"]["Pid"]
    chain = "v" + "".join(f"{int(part):02x}" for part in service_vip.split("."))
    listed = lab.run(host, "nsenter", "-t", str(pid), "-n", "nft", "list", "chain", "ip", "shoal_lb", chain)
    return set(re.findall(r"(\d+\.\d+\.\d+\.\d+)", listed.stdout))


def check(lab: Lab, host: str) -> dict[str, Any]:
    """The answer of `shoald debug network-check`."""
    answer = cli(lab, host).http("POST", "/debug/network-check")
    assert answer.status == 200, answer.message
    return dict(answer.value)


def wait_backends(lab: Lab, host: str, container: str, service: str, timeout_s: float = 5) -> None:
    """Until a container's table holds just the tasks of the service that run."""
    address = vip(lab, service)

    def look() -> bool:
        return backends(lab, host, container, address) == set(addresses(lab, service).values())

    until(look, timeout_s=timeout_s, what=f"the table on {host} to hold the running tasks of {service}, and no others")


def wait_published(lab: Lab, host: str, port: int, timeout_s: float = 5) -> None:
    """Until a published port answers on a host, several times in a row."""
    url = f"http://127.0.0.1:{port}/cgi-bin/who"
    until(lambda: all(fetched(lab, host, url, 3)), timeout_s=timeout_s, what=f"port {port} on {host}")


def fetched(lab: Lab, host: str, url: str, times: int = 1) -> list[str]:
    """GETs by a client on a lab host; an empty text for each that failed."""
    script = (
        "import sys, urllib.request as u\no = u.build_opener(u.ProxyHandler({}))\n"
        "for _ in range(int(sys.argv[2])):\n"
        " try: print(o.open(sys.argv[1], timeout=3).read().decode().strip())\n"
        " except OSError as e: print()"
    )
    return lab.run(host, sys.executable, "-I", "-c", script, url, str(times)).stdout.split("\n")[:times]


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


class Load:
    """Requests one after the other from a host, new connections each, until it is stopped."""

    SCRIPT = (
        "import sys, time, urllib.request as u\no = u.build_opener(u.ProxyHandler({}))\nok = bad = 0\n"
        "end = time.monotonic() + float(sys.argv[2])\n"
        "while time.monotonic() < end:\n"
        " try: o.open(sys.argv[1], timeout=5).read(); ok += 1\n"
        " except OSError as e: bad += 1; print(time.time(), e, file=sys.stderr)\n"
        " time.sleep(0.005)\n"
        "print(ok, bad)"
    )

    def __init__(self, lab: Lab, host: str, url: str, seconds: float) -> None:
        self._done: list[Any] = []
        argv = (sys.executable, "-I", "-c", self.SCRIPT, url, str(seconds))
        self._thread = threading.Thread(target=lambda: self._done.append(lab.run(host, *argv, timeout_s=seconds + 30)))
        self._thread.start()

    def result(self) -> tuple[int, int, str]:
        """(answered, failed, errors)"""
        self._thread.join()
        (done,) = self._done
        good, bad = done.stdout.split()
        return int(good), int(bad), done.stderr


def test_a_rolling_update_fails_no_request(swarm_lab: Lab) -> None:
    web(swarm_lab, "roll", "-p", "8081:80", "--update-parallelism", "1", "--update-delay", "0s", replicas=4)
    wait_published(swarm_lab, "w2", 8081)
    loads = [Load(swarm_lab, host, "http://127.0.0.1:8081/cgi-bin/who", 14) for host in ("m1", "w2")]
    cli(swarm_lab).ok("service", "update", "--env-add", "ROUND=2", "roll")
    time.sleep(8)
    cli(swarm_lab).ok("service", "scale", "roll=2")
    for load in loads:
        answered, failed, errors = load.result()
        assert failed == 0, errors
        assert answered > 100


def test_the_tables_follow_every_kill(swarm_lab: Lab, net: str) -> None:
    web(swarm_lab, "web", "--network", net, "--restart-delay", "0s", replicas=5)
    inside = clients(swarm_lab, net)
    for turn in range(8):
        host = HOSTS[turn % len(HOSTS)]
        label = "label=com.docker.swarm.service.name=web"
        for container in cli(swarm_lab, host).ok("ps", "-q", "--filter", label).split()[:1]:
            cli(swarm_lab, host).ok("kill", container)
        for each in HOSTS:
            wait_backends(swarm_lab, each, inside[each], "web", timeout_s=5)
    assert all(check(swarm_lab, host)["Repairs"] == [] for host in HOSTS)


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


def test_after_a_partition_the_tables_are_as_if_there_had_been_none(swarm_lab: Lab, net: str) -> None:
    web(swarm_lab, "web", "--network", net, replicas=5)
    clients(swarm_lab, net)
    swarm_lab.partition(["w1"], [host for host in HOSTS if host != "w1"])
    cli(swarm_lab).ok("service", "scale", "web=8")

    def moved() -> bool:
        placed = running_on(swarm_lab, "web")
        return placed.total() == 8 and "w1" not in placed

    until(moved, timeout_s=60, what="eight tasks without w1")
    swarm_lab.heal()
    swarm.wait_ready(swarm_lab, 5)
    for host in HOSTS:
        container = _client_on(swarm_lab, host)
        wait_backends(swarm_lab, host, container, "web", timeout_s=30)
        assert check(swarm_lab, host) | {"DesiredIndex": 0, "AppliedIndex": 0} == HEALTHY


HEALTHY = {"DesiredIndex": 0, "AppliedIndex": 0, "Lag": 0, "Repairs": [], "Failures": []}


def _client_on(lab: Lab, host: str) -> str:
    """A client that runs on the host, as soon as there is one."""
    label = "label=com.docker.swarm.service.name=cli"
    found = until(
        lambda: cli(lab, host).ok("ps", "-q", "--filter", label) or None, timeout_s=30, what=f"a client on {host}"
    )
    return found.partition("\n")[0]


def test_traffic_goes_on_while_daemons_restart(swarm_lab: Lab, net: str) -> None:
    web(swarm_lab, "web", "--network", net, "-p", "8082:80", replicas=2)
    inside = clients(swarm_lab, net)
    wait_published(swarm_lab, "w1", 8082)
    load = Load(swarm_lab, "w1", "http://127.0.0.1:8082/cgi-bin/who", 8)
    for host in ("w1", "w2"):
        swarm_lab.kill(host)
        swarm_lab.start(host)
    answered, failed, errors = load.result()
    assert failed == 0, errors
    assert answered > 50
    assert resolve(swarm_lab, "w1", inside["w1"], "web") == {vip(swarm_lab, "web")}
    assert get(swarm_lab, "w1", inside["w1"], "http://web/cgi-bin/who")


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


NOTHING: dict[str, list[str]] = {"links": [], "namespaces": [], "tables": []}


def left_over(lab: Lab, host: str) -> dict[str, list[str]]:
    """What networking has made on a host."""
    links = lab.run(host, "ip", "-o", "link").stdout
    listing = lab.run(host, "sh", "-c", "ls /run/shoal/overlay /run/shoal/netns 2>/dev/null").stdout
    tables = lab.run(host, "nft", "list", "tables").stdout
    return {
        "links": re.findall(r"(sv[0-9a-f]{12}|shvx\d+)", links),
        "namespaces": [line for line in listing.split() if not line.startswith("/")],
        "tables": re.findall(r"shoal_\w+_mesh", tables),
    }


def test_nothing_of_a_network_is_left(swarm_lab: Lab) -> None:
    docker = cli(swarm_lab)
    for host in HOSTS:
        _wait_left_over(swarm_lab, host, NOTHING)
    docker.ok("network", "create", "-d", "overlay", "brief")
    web(swarm_lab, "web", "--network", "brief", "-p", "8084:80", replicas=5)
    assert all(left_over(swarm_lab, host) != NOTHING for host in HOSTS)
    refused = docker.bad("network", "rm", "brief")
    assert "in use" in refused.err
    docker.ok("service", "rm", "web")
    until(lambda: docker.run("network", "rm", "brief").code == 0, timeout_s=30, what="brief to be unused")
    for host in HOSTS:
        _wait_left_over(swarm_lab, host, NOTHING)


def _wait_left_over(lab: Lab, host: str, wanted: dict[str, list[str]]) -> None:
    until(lambda: left_over(lab, host) == wanted, timeout_s=20, what=f"nothing but {wanted} to be left on {host}")


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
