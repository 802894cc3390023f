"""Swarm networks: throughput between hosts and by published ports, one service's update among a thousand, how soon a
task is in every table, how soon names are answered, what it all takes of memory.

Throughput is taken beside a VXLAN link made by hand between the same two lab hosts, turn by turn, so that whatever else
the machine does meets both alike; published ports beside a rule made by hand. Aims: 0.9 of the plain link and of the
plain rule; 10 ms for the update; 300 ms to every node (median); 1 ms for a name (p99).
"""

import os
import statistics
import subprocess
import sys
import time

from benchmarks import network_paths
from benchmarks.results import keep, summary
from lab import swarm
from lab.lab import Lab, running
from lab.wait import until
from worker.engine.networks import balancing
from worker.engine.networks.nft import Context
from worker.engine.syscalls import netns

SERVICES, BACKENDS = 1_000, 3
BYTES = 512 << 20
PORT = 7_000
SERVER = (
    "import socket,sys\ns=socket.create_server((sys.argv[1],int(sys.argv[2])))\nprint('up',flush=True)\n"
    "while 1:\n c,_=s.accept()\n while c.recv(1<<20): pass\n c.close()"
)
CLIENT = (
    "import socket,sys,time\nn=int(sys.argv[3]); b=bytes(1<<20)\n"
    "c=socket.create_connection((sys.argv[1],int(sys.argv[2])))\n"
    "t=time.monotonic()\nfor _ in range(n>>20): c.sendall(b)\nc.shutdown(1); c.recv(1)\n"
    "print(n/(time.monotonic()-t)/1e6)"
)
PLAIN = ("10.250.0.1", "10.250.0.2")
SLEEPER = ("busybox", "sh", "-c", "trap 'exit 0' TERM; sleep 1d & wait")


def run(*, turns: int, reach: int) -> None:
    """Measure, print, keep."""
    update = one_among_many(turns * 5)
    memory = network_paths.memory(SERVICES, BACKENDS)
    with running(f"bench{os.getpid()}", managers=3, workers=2) as lab:
        swarm.form(lab)
        lab.docker("m1", "network", "create", "-d", "overlay", "bench")
        lab.docker("m1", "service", "create", "--name", "ask", "--network", "bench", "--mode", "global", *SLEEPER)
        clients = {
            host: until(lambda host=host: client(lab, host), timeout_s=30, what=host) for host in lab.state().hosts
        }  # type: ignore[misc]
        throughput = two_hosts(lab, clients, turns)
        ports = network_paths.published(lab, turns)
        asked = network_paths.names(lab, clients["w1"], "ask")
        soon = [seconds_to_every_table(lab, clients, number) for number in range(reach)]
    figures: dict[str, object] = {
        "update_of_one": update,
        "megabytes_per_s": throughput,
        "published": ports,
        "name": asked,
        "memory_mb": memory,
        "in_every_table": summary(soon),
    }
    print(f"one service among {SERVICES} x {BACKENDS}: {update['median_ms']} ms (aim 10)")
    print(f"between hosts: overlay {throughput['overlay']:.0f} MB/s, plain VXLAN {throughput['plain']:.0f} MB/s, "
          f"{throughput['overlay'] / throughput['plain']:.2f} (aim 0.9)")  # fmt: skip
    for way in ("mesh", "gate"):
        part = ports[way]["megabytes_per_s"] / ports["plain"]["megabytes_per_s"]
        print(f"published, by the {way}: {ports[way]}, plain rule: {ports['plain']}, {part:.2f} (aim 0.9 for the mesh)")
    print(f"a name, in the container: {asked} (aim: p99 1 ms)")
    print(f"megabytes for {SERVICES} x {BACKENDS}, published: {memory}")
    print(f"from RUNNING to every table of five nodes: {summary(soon)['median_ms']} ms (aim 300)")
    print(f"kept in {keep('network', figures)}")


def one_among_many(times: int) -> dict[str, float]:
    """Transactions that change one service's backends, as a container's namespace gets them."""
    address = [f"10.200.{number // 250}.{number % 250}" for number in range(SERVICES)]
    before = {vip: tuple(f"10.201.0.{last}" for last in range(BACKENDS)) for vip in address}

    def work() -> list[float]:
        context = Context()
        context.run(balancing.whole_client(before))
        taken: list[float] = []
        now: dict[str, tuple[str, ...]] = {address[0]: before[address[0]]}
        for turn in range(times):
            after = {address[0]: (f"10.202.0.{turn % 250}", "10.201.0.1")}
            begun = time.monotonic()
            context.run(balancing.change_client(now, after))
            taken.append(time.monotonic() - begun)
            now = after
        context.free()
        return taken

    return summary(netns.in_new(work))


def client(lab: Lab, host: str) -> int | None:
    """Process id, inside the host, of the container on the network."""
    names = lab.docker(host, "ps", "-q", "--filter", "label=com.docker.swarm.service.name=ask").split()
    return int(lab.docker(host, "inspect", "--format", "{{.State.Pid}}", names[0])) if names else None


def two_hosts(lab: Lab, clients: dict[str, int], turns: int) -> dict[str, float]:
    """Megabytes a second from w1 to w2, median of the turns: between two containers, and over a plain VXLAN link."""
    for host, other, address in (("w1", "w2", PLAIN[0]), ("w2", "w1", PLAIN[1])):
        remote = lab.host(other).address
        made = f"ip link add plain type vxlan id 99 dstport 4790 remote {remote} local {lab.host(host).address}; "
        done = lab.run(host, "sh", "-ec", made + f"ip addr add {address}/24 dev plain; ip link set plain mtu 1450 up")
        assert done.returncode == 0, done.stderr
    inside = ["nsenter", "-t", str(clients["w2"]), "-n"]
    target = lab.run("w2", *inside, "sh", "-c", "ip -4 -o addr show eth0 | sed 's/.*inet //; s,/.*,,'").stdout.strip()
    servers = [serve(lab, [*inside], target), serve(lab, [], PLAIN[1])]
    figures: dict[str, list[float]] = {"overlay": [], "plain": []}
    try:
        for _ in range(turns):
            figures["overlay"].append(send(lab, ["nsenter", "-t", str(clients["w1"]), "-n"], target))
            figures["plain"].append(send(lab, [], PLAIN[1]))
    finally:
        for server in servers:
            server.terminate()
            server.wait()
    return {name: round(statistics.median(values), 1) for name, values in figures.items()}


def serve(lab: Lab, inside: list[str], address: str) -> "subprocess.Popen[str]":
    argv = lab.command("w2", [*inside, sys.executable, "-I", "-c", SERVER, address, str(PORT)])
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=lab.environment())
    assert server.stdout is not None
    assert server.stdout.readline() == "up\n"
    return server


def send(lab: Lab, inside: list[str], address: str) -> float:
    argv = (*inside, sys.executable, "-I", "-c", CLIENT, address, str(PORT), str(BYTES))
    done = lab.run("w1", *argv, timeout_s=120)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def seconds_to_every_table(lab: Lab, clients: dict[str, int], number: int) -> float:
    """From the moment a new service's task is seen to run until all clients' tables lead to it."""
    name = f"new{number}"
    lab.docker("m1", "service", "create", "--name", name, "--network", "bench", *SLEEPER)
    vip = lab.docker("m1", "service", "inspect", "--format", "{{(index .Endpoint.VirtualIPs 0).Addr}}", name).partition(
        "/"
    )[0]
    state = ("service", "ps", "--format", "{{.CurrentState}}", name)
    until(lambda: lab.docker("m1", *state).startswith("Running"), timeout_s=30, what=name, interval_s=0.01)
    begun = time.monotonic()
    chain = balancing.chain_of(vip)

    def there(host: str) -> bool:
        listed = lab.run(
            host, "nsenter", "-t", str(clients[host]), "-n", "nft", "list", "chain", "ip", balancing.TABLE, chain
        )
        return "dnat" in listed.stdout

    for host in clients:
        until(lambda host=host: there(host), timeout_s=10, what=f"{name} on {host}", interval_s=0.01)  # type: ignore[misc]
    return time.monotonic() - begun
