"""Traffic on swarm networks that nothing may disturb, and churn that leaves nothing. CI plays them short, SHOAL_LONG=1
(or `script/lab scenario NAME`) in full; SHOAL_ROUNDS says how often, and how many seconds of churn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.lab import Lab
from lab.wait import until
from tests.e2e.network_load import Load, app
from tests.e2e.network_truth import client, join_clients, wait_true
from tests.e2e.networks import (
    HEALED_S,
    LONG,
    NOTHING,
    long_only,
    overlay,
    remove_services,
    rounds,
    vip,
    wait_left_over,
    wait_published,
    wait_updated,
)
from tests.e2e.test_swarm import HOSTS, cli, leader, running_on, wait_running

pytestmark = pytest.mark.timeout(3 * 3600 if LONG else 120)


@pytest.fixture
def net(swarm_lab: Lab) -> Iterator[str]:
    with overlay(swarm_lab) as name:
        yield name


def test_updates_scaling_and_drains_fail_no_request(swarm_lab: Lab, net: str) -> None:
    """New and kept connections, by the mesh and by the virtual address. In the long form 500 a second, 20 updates."""
    updates, rate = rounds(1, 20), 500 if LONG else 100
    app(swarm_lab, "web", "--network", net, "-p", "8090:80", "--update-parallelism", "1", replicas=4)
    join_clients(swarm_lab, net)
    for host in HOSTS:
        wait_published(swarm_lab, host, 8090)
    wait_true(swarm_lab, net, timeout_s=HEALED_S, connect=False)
    address = vip(swarm_lab, "web")
    hosts = [(swarm_lab.host(host).address, 8090) for host in HOSTS]
    _, inside = client(swarm_lab, "w1")
    with (
        Load(swarm_lab, "m1", *hosts, rate=rate / 4) as mesh,
        Load(swarm_lab, "m1", *hosts, rate=rate / 4, keep=True) as mesh_kept,
        Load(swarm_lab, "w1", (address, 80), rate=rate / 4, inside=inside) as virtual,
        Load(swarm_lab, "w1", (address, 80), rate=rate / 4, keep=True, inside=inside) as virtual_kept,
    ):
        for number in range(updates):
            cli(swarm_lab).ok("service", "update", "--env-add", f"ROUND={number}", "web")
            wait_updated(swarm_lab, "web")
            if number == 0:
                cli(swarm_lab).ok("service", "scale", "web=2")
                cli(swarm_lab).ok("node", "update", "--availability", "drain", "w2")
                until(lambda: "w2" not in running_on(swarm_lab, "web"), timeout_s=20, what="w2 to be drained")
                cli(swarm_lab).ok("node", "update", "--availability", "active", "w2")
                cli(swarm_lab).ok("service", "scale", "web=4")
                wait_running(swarm_lab, "web", 4)
        for load in (mesh, mesh_kept, virtual, virtual_kept):
            print(load.clean(at_least=rate * updates))


@long_only
def test_an_update_fails_no_request_though_the_leader_dies(swarm_lab: Lab, net: str) -> None:
    for _ in range(rounds(1, 5)):
        app(swarm_lab, "web", "--network", net, "-p", "8091:80", "--update-parallelism", "1", replicas=4)
        for host in HOSTS:
            wait_published(swarm_lab, host, 8091)
        hosts = [(swarm_lab.host(host).address, 8091) for host in HOSTS]
        with Load(swarm_lab, "w1", *hosts) as load:
            kill_leader_in_update(swarm_lab, "web")
            wait_updated(swarm_lab, "web")
            print(load.clean(at_least=500))
        remove_services(swarm_lab)
        until(lambda: not cli(swarm_lab).ok("service", "ls", "-q"), timeout_s=20, what="no service")


def kill_leader_in_update(lab: Lab, service: str) -> None:
    """Kill it as soon as a task has been told to stop; it is back when another leads."""
    first = leader(lab, "m1")
    assert first is not None
    via = next(host for host in ("m1", "m2", "m3") if host != first)
    cli(lab, via).ok("service", "update", "--env-add", "ROUND=1", service)
    until(lambda: updating(lab, via), timeout_s=10, what="the update to be under way", interval_s=0.02)
    lab.kill(first)
    try:
        until(lambda: leader(lab, via) not in (None, first), timeout_s=20, what="a new leader")
    finally:
        lab.start(first)


def updating(lab: Lab, via: str) -> bool:
    """Whether some task of `web` has been told to stop."""
    answer = cli(lab, via).http("GET", '/v1.24/tasks?filters={"service":["web"]}')
    return answer.status == 200 and any(task["DesiredState"] == "shutdown" for task in answer.value)


@long_only
def test_an_idle_connection_lives(swarm_lab: Lab, net: str) -> None:
    """Times shortened: 120 s for an established connection stand for the kernel's five days, one second for all the
    other states of TCP. So an idle time of three seconds is survived only if nothing on the way, by the virtual address
    or by the mesh and its gate, takes the connection for anything but established."""
    app(swarm_lab, "web", "--network", net, "-p", "8092:80", replicas=1)
    join_clients(swarm_lab, net)
    (home,) = running_on(swarm_lab, "web")
    away = next(host for host in ("w1", "w2") if host != home)
    wait_published(swarm_lab, away, 8092)
    _, pid = client(swarm_lab, away)
    ask = (
        "import socket,sys,time\ns=socket.create_connection((sys.argv[1],int(sys.argv[2])))\nfor wait in (3,0):\n"
        " s.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n'); assert b'200 OK' in s.recv(999); time.sleep(wait)"
    )
    target = (vip(swarm_lab, "web"), "80"), ("127.0.0.1", "8092")
    with shortened(swarm_lab, away):
        for enter, (address, port) in zip((["-t", str(pid)], ["-t", "1"]), target, strict=True):
            done = swarm_lab.run(away, "nsenter", *enter, "-n", sys.executable, "-I", "-c", ask, address, port)
            assert done.returncode == 0, done.stderr


@contextmanager
def shortened(lab: Lab, host: str) -> Iterator[None]:
    """The times of connection tracking, on a host and in all its containers and its gate."""
    away, back = (
        "cd /proc/sys/net/netfilter; for f in nf_conntrack_tcp_timeout_*; do cat $f; echo 1 > $f; done; "
        "echo 120 > nf_conntrack_tcp_timeout_established",
        "cd /proc/sys/net/netfilter; for f in nf_conntrack_tcp_timeout_*; do echo $1 > $f; shift; done",
    )
    inside = lab.run(host, "sh", "-ec", f"for n in /run/shoal/netns/*; do nsenter --net=$n sh -ec '{away}'; done")
    assert inside.returncode == 0, inside.stderr
    before = lab.run(host, "sh", "-ec", away)
    assert before.returncode == 0, before.stderr
    try:
        yield
    finally:
        lab.run(host, "sh", "-ec", back, "sh", *before.stdout.split())


def test_churn_leaves_nothing(swarm_lab: Lab) -> None:
    """Tasks that end as soon as they run, on three networks, two of them with little more room than tasks: one address
    that is not given back, and it fills up."""
    seconds = rounds(5, 600)
    docker = cli(swarm_lab)
    for host in HOSTS:
        wait_left_over(swarm_lab, host, NOTHING)
    before = {host: counted(swarm_lab, host) for host in HOSTS}
    names = ["one", "two", "three"]
    try:
        for number, name in enumerate(names):
            subnet = f"10.79.{number}.0/{27 if number else 24}"
            docker.ok("network", "create", "-d", "overlay", "--subnet", subnet, name)
        for name in names:
            docker.ok(
                "service", "create", "--name", f"churn-{name}", "--network", name, "--replicas", "10",
                "--restart-delay", "0s", "busybox", "sleep", "0.3",
            )  # fmt: skip
        time.sleep(seconds)
        tasks = docker.http("GET", "/v1.24/tasks").value
        full = [task["Status"]["Err"] for task in tasks if "no available" in task["Status"].get("Err", "")]
        assert full == []
        remove_services(swarm_lab)
        for name in names:
            until(lambda name=name: docker.run("network", "rm", name).code == 0, timeout_s=60, what=f"{name} unused")  # type: ignore[misc]
    finally:
        remove_services(swarm_lab)
        for name in names:
            docker.run("network", "rm", name)
    for host in HOSTS:
        wait_left_over(swarm_lab, host, NOTHING)
        until(lambda host=host: counted(swarm_lab, host) == before[host], timeout_s=20, what=f"{host} as before")  # type: ignore[misc]


def counted(lab: Lab, host: str) -> dict[str, int]:
    """Links, mounted namespaces and nft rules of a host, whoever made them."""
    script = "ip -o link | wc -l; grep -c nsfs /proc/self/mountinfo; nft list ruleset | wc -l"
    found = map(int, lab.run(host, "sh", "-c", script).stdout.split())
    return dict(zip(("links", "namespaces", "rules"), found, strict=True))
