"""Published ports beside a plain nft DNAT to the same container, names as a container asks for them, and what a
thousand services take of memory. Parts of `benchmarks/run.py network`.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from api.types.dataplane import Overlay, OverlayChange, OverlayPool, OverlayPort, OverlayService, OverlayTask
from lab.lab import Lab
from lab.wait import until
from worker.engine.networks import balancing
from worker.engine.networks.mesh import gate_targets, host_targets
from worker.engine.networks.nft import Context
from worker.engine.networks.overlaystate import OverlayState
from worker.engine.syscalls import netns

MESH, PLAIN = 8_100, 8_101
BYTES = 256 << 20
CONNECTIONS = 1_000
QUESTIONS = 3_000
TABLES = 50
"""Namespaces with the same table, so that the kernel's memory can be told from its noise."""
SERVER = (
    "import socket,threading\ns=socket.create_server(('',7000))\n"
    "def serve(c):\n while c.recv(1<<20): pass\n c.close()\n"
    "while 1: threading.Thread(target=serve,args=(s.accept()[0],),daemon=True).start()"
)
CLIENT = (
    "import json,socket,sys,time\nt=(sys.argv[1],int(sys.argv[2])); n,m=map(int,sys.argv[3:5]); b=bytes(1<<20)\n"
    "c=socket.create_connection(t); s=time.monotonic()\nfor _ in range(n>>20): c.sendall(b)\nc.shutdown(1); c.recv(1)\n"
    "rate=n/(time.monotonic()-s)/1e6; s=time.monotonic()\nfor _ in range(m): socket.create_connection(t).close()\n"
    "print(json.dumps([rate,m/(time.monotonic()-s)]))"
)
ASK = r"""
import json, socket, struct, sys, time
name, count = sys.argv[1], int(sys.argv[2])
ask = struct.pack(">6H", 7, 256, 1, 0, 0, 0) + bytes([len(name)]) + name.encode() + struct.pack(">BHH", 0, 1, 1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
taken = []
for number in range(count):
    begun = time.perf_counter()
    s.sendto(ask, ("127.0.0.11", 53)); answer = s.recv(512)
    taken.append(time.perf_counter() - begun)
    assert struct.unpack_from(">H", answer, 6)[0] == 1, answer
    time.sleep(0.001)
taken.sort()
print(json.dumps({"p50_ms": taken[count // 2] * 1e3, "p99_ms": taken[count * 99 // 100] * 1e3, "count": count}))
"""


def published(lab: Lab, turns: int) -> dict[str, dict[str, float]]:
    """Medians, from w1 to a container on w2: by the mesh of w2 itself, by the gate of m1, by a rule made by hand."""
    mounts = [f"--mount=type=bind,source={path},target={path},readonly" for path in ("/usr", "/lib", "/lib64")]
    lab.docker(
        "m1", "service", "create", "--name", "sink", "-p", f"{MESH}:7000", "--constraint", "node.hostname==w2", *mounts,
        "busybox", "/usr/bin/python3", "-I", "-c", SERVER,
    )  # fmt: skip
    label = "label=com.docker.swarm.service.name=sink"
    found = until(lambda: lab.docker("w2", "ps", "-q", "--filter", label).split() or None, timeout_s=30, what="sink")
    pid = lab.docker("w2", "inspect", "--format", "{{.State.Pid}}", found[0]).strip()
    shown = lab.run("w2", "nsenter", "-t", pid, "-n", "ip", "-4", "-o", "addr").stdout
    address = next(word.partition("/")[0] for word in shown.split() if word.startswith("172."))
    plain = (
        "add table ip plain\nadd chain ip plain pre { type nat hook prerouting priority -100; }\n"
        f"add rule ip plain pre tcp dport {PLAIN} dnat to {address}:7000\n"
    )
    done = lab.run("w2", "nft", plain)
    assert done.returncode == 0, done.stderr
    ways = {
        "mesh": (lab.host("w2").address, MESH),
        "gate": (lab.host("m1").address, MESH),
        "plain": (lab.host("w2").address, PLAIN),
    }
    figures: dict[str, list[list[float]]] = {name: [] for name in ways}
    for target in ways.values():
        until(lambda target=target: _tried(lab, target), timeout_s=20, what=f"{target}")  # type: ignore[misc]
    for _ in range(turns):
        for name, (host, port) in ways.items():
            argv = (sys.executable, "-I", "-c", CLIENT, host, str(port), str(BYTES), str(CONNECTIONS))
            done = lab.run("w1", *argv, timeout_s=120)
            assert done.returncode == 0, done.stderr
            figures[name].append(json.loads(done.stdout))
    return {
        name: {
            "megabytes_per_s": round(statistics.median(rate for rate, _ in taken), 1),
            "connections_per_s": round(statistics.median(many for _, many in taken), 1),
        }
        for name, taken in figures.items()
    }


def _tried(lab: Lab, target: tuple[str, int]) -> bool:
    script = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
    return lab.run("w1", sys.executable, "-I", "-c", script, target[0], str(target[1])).returncode == 0


def names(lab: Lab, pid: int, name: str) -> dict[str, float]:
    """Questions for a service's name from inside a container of w1, one after the other."""
    argv = ("nsenter", "-t", str(pid), "-n", sys.executable, "-I", "-c", ASK, name, str(QUESTIONS))
    done = lab.run("w1", *argv, timeout_s=120)
    assert done.returncode == 0, done.stderr
    return {key: round(value, 3) for key, value in json.loads(done.stdout).items()}


def memory(services: int, tasks: int) -> dict[str, float]:
    """Megabytes for so many published services: of a daemon that knows them, of the kernel for one container's table
    and for the mesh. In a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.network_paths", str(services), str(tasks)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    return {key: float(value) for key, value in json.loads(done.stdout).items()}


def _services(services: int, tasks: int) -> list[OverlayService]:
    def task(service: int, number: int) -> OverlayTask:
        address = f"10.{20 + number}.{service // 250}.{service % 250 + 1}"
        key = f"{service:05d}{number:03d}".rjust(25, "t")
        return OverlayTask(id=key, name=f"s{service}.{number}.{key}", address=address, node="10.99.0.11", serving=True)

    return [
        OverlayService(
            network_id="net",
            id=f"{number:05d}".rjust(25, "s"),
            name=f"s{number}",
            vip=f"10.200.{number // 250}.{number % 250 + 1}",
            tasks=[task(number, each) for each in range(tasks)],
            ports=[OverlayPort(protocol="tcp", published=10_000 + number, target=80)],
        )
        for number in range(services)
    ]


def _resident_kb() -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])


def _kernel_kb(commands: str) -> float:
    """What one such table takes: slab and percpu memory before and after TABLES of them."""

    def taken() -> int:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return sum(int(lines[key].split()[0]) for key in ("Slab", "Percpu"))

    def fill() -> float:
        context = Context()
        context.run(commands.replace("{n}", "0"))
        before = taken()
        for number in range(1, TABLES + 1):
            context.run(commands.replace("{n}", str(number)))
        after = taken()
        context.free()
        return (after - before) / TABLES

    return netns.in_new(fill)


def main() -> None:
    """Print the figures as JSON."""
    count, tasks = int(sys.argv[1]), int(sys.argv[2])
    before = _resident_kb()
    network = Overlay(
        id="net", name="net", vni=256, pools=[OverlayPool(subnet="10.0.0.0/8", gateway="10.0.0.1")], local="10.99.0.12"
    )
    state, wanted = OverlayState(), _services(count, tasks)
    state.apply(OverlayChange(index=1, complete=True, update=[network], update_services=wanted))
    backends = state.backends(["net"])
    targets = gate_targets(wanted), host_targets(wanted, {}, "172.18.0.2")
    daemon = _resident_kb() - before
    table = f"ip {balancing.TABLE}"
    client = balancing.whole_client(backends).replace(table, table + "{n}")
    mesh = balancing.whole_mesh("shoal_mesh", targets[1]).replace("ip shoal_mesh", "ip shoal_mesh{n}")
    gate = balancing.whole_gate(targets[0], "eth0").replace(f"ip {balancing.GATE}", f"ip {balancing.GATE}{{n}}")
    kernel = {name: _kernel_kb(text) for name, text in (("container", client), ("mesh", mesh), ("gate", gate))}
    print(json.dumps({"daemon": round(daemon / 1024, 1)} | {key: round(kb / 1024, 2) for key, kb in kernel.items()}))


if __name__ == "__main__":
    main()
