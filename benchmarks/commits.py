"""Commits per second and their latency: three managers on one machine, one client and 64, beside etcd 3.4.

Ours are three processes, each a real manager (mutual TLS between all, SQLite, sealed records, store). `raft` proposes
transactions as they come; `store` goes through `Store.update`, as every write of the API does: one after the other.
etcd is Debian's, three processes, TLS between its members and none to the client, Put of the same payload. One client
process speaks to both over gRPC; all data lies in one directory of a real disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec

from api.rpc.methods import Method
from api.rpc.server import Handler, Peer
from api.rpc.swarm_methods import MANAGERS
from api.types.base import Record
from api.types.objects import Service
from api.types.swarm import ReplicatedService, ServiceMode, ServiceSpec, SwarmSpec
from base.clock import SystemClock
from base.ids import swarm_id
from benchmarks.results import keep
from ca.client import join
from ca.identity import IdentityStore
from ca.tls import channel
from lab.paths import ROOT, LabError, base_environment, tool
from manager.founding import found
from manager.manager import Manager, ManagerConfig
from manager.store.memory import Action, Transaction
from manager.store.store import Batch
from manager.store.tables import encode
from manager.store.transitions import Component

CLOCK = SystemClock()
PAYLOAD = "x" * 256
CLIENTS = (1, 64)
PORT, ETCD_PORT = 34200, 34300
Write = Callable[[str], Awaitable[Any]]


class Put(Record, frozen=True, kw_only=True):
    key: str
    through_store: bool


class Done(Record, frozen=True, kw_only=True):
    index: int


PUT = Method("/bench/Put", Put, Done)


class Member(Manager):
    """A manager with one call more."""

    def _handlers(self, parts: Any) -> dict[Method[Any, Any], tuple[frozenset[str], Handler]]:
        return super()._handlers(parts) | {PUT: (MANAGERS, self.put)}

    async def put(self, request: Put, peer: Peer) -> Done:
        if request.through_store:

            def change(batch: Batch) -> None:
                batch.put(labelled(batch.view.service_named(request.key), request.key))

            await self.store.update(Component.CONTROL_API, change)
            return Done(index=self.store.view().index)
        known = self.store.view().service_named(request.key)
        item = labelled(known, request.key)
        put = Action(table="services", id=item.id, base=item.meta.version, data=encode(item))
        data = encode(Transaction(component=Component.CONTROL_API.value, time=CLOCK.now_ns(), actions=[put]))
        applied = await self.raft.propose(data)
        # The allocator looks at new services too: now and then its write is first, and ours commits without effect.
        return Done(index=applied.index)


def labelled(known: Service | None, name: str) -> Service:
    """A service without tasks, with another label than it had."""
    mode = ServiceMode(replicated=ReplicatedService(replicas=0))
    service = known or Service(id=swarm_id(), spec=ServiceSpec(name=name, mode=mode))
    labels = {"payload": PAYLOAD, "number": str(service.meta.version)}
    return msgspec.structs.replace(service, spec=msgspec.structs.replace(service.spec, labels=labels))


async def member(number: int, directory: Path) -> None:
    """One process: the first founds, the others join it. Prints a line when it is ready."""
    addr, first = f"127.0.0.1:{PORT + number}", f"127.0.0.1:{PORT}"
    own = directory / f"m{number}"
    own.mkdir()
    config = ManagerConfig(own, addr, addr)
    if number == 0:
        founding = found(SwarmSpec(), addr, CLOCK)
        identity = founding.identity
        (directory / "token").write_text(founding.cluster.join_tokens.manager)
        manager = Member(config, identity, CLOCK, founding=founding)
    else:
        identity = await join(first, (directory / "token").read_text(), CLOCK)
        manager = Member(config, identity, CLOCK, join_addrs=(first,))
    IdentityStore(own / "certificates").save(identity)
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(manager.run(ready))
        await ready.wait()
        while any(each.learner for each in manager.raft.status().members.values()):
            await asyncio.sleep(0.1)
        print("ready", flush=True)


@contextlib.contextmanager
def managers(directory: Path) -> Iterator[list[int]]:
    """Three of them; their process ids."""
    processes: list[subprocess.Popen[str]] = []
    try:
        for number in range(3):
            command = [sys.executable, "-m", "benchmarks.commits", str(number), str(directory)]
            with (directory / f"m{number}.log").open("wb") as log:
                process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
            processes.append(process)
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise LabError(f"manager {number} did not start")
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def etcd(directory: Path) -> Iterator[list[int]]:
    peers = ",".join(f"e{number}=https://127.0.0.1:{ETCD_PORT + 10 + number}" for number in range(3))
    processes = []
    try:
        for number in range(3):
            client, peer = f"http://127.0.0.1:{ETCD_PORT + number}", f"https://127.0.0.1:{ETCD_PORT + 10 + number}"
            command = [str(tool("etcd")), "--name", f"e{number}", "--data-dir", str(directory / f"e{number}")]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--peer-auto-tls"]
            command += ["--initial-cluster", peers, "--initial-cluster-state", "new"]
            log = (directory / f"e{number}.log").open("wb")
            with log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=base_environment()))
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def measured(write: Write, clients: int, seconds: float, pids: list[int]) -> dict[str, float]:
    """Each client writes its own key, one at a time, until the time is over. `pids`: the members, for their share."""
    latencies: list[float] = []
    used = sum(map(processor_s, pids))
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        while (begin := time.perf_counter()) < end:
            await write(f"key{number}")
            latencies.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    took = time.perf_counter() - begin
    latencies.sort()
    return {
        "commits_per_s": round(len(latencies) / took, 1),
        "median_ms": round(statistics.median(latencies) * 1000, 2),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1000, 2),
        "processor_ms_per_commit": round((sum(map(processor_s, pids)) - used) * 1000 / len(latencies), 2),
    }


async def of_managers(directory: Path, seconds: float, pids: list[int]) -> dict[str, dict[str, float]]:
    identity = IdentityStore(directory / "m0" / "certificates").load()
    assert identity is not None
    connection = channel(f"127.0.0.1:{PORT}", identity, identity.root_pem)
    send = connection.unary_unary(PUT.path)
    figures = {}
    for how, through_store in (("raft", False), ("store", True)):
        for clients in CLIENTS:

            async def write(key: str, prefix: str = f"{how}-{clients}-", through_store: bool = through_store) -> None:
                await send(PUT.encode(Put(key=prefix + key, through_store=through_store)), timeout=30)

            figures[f"{how}, {clients} clients"] = await measured(write, clients, seconds, pids)
    await connection.close()
    return figures


async def of_etcd(seconds: float, pids: list[int]) -> dict[str, dict[str, float]]:
    connection = grpc.aio.insecure_channel(f"127.0.0.1:{ETCD_PORT}", options=[("grpc.enable_http_proxy", 0)])
    send = connection.unary_unary("/etcdserverpb.KV/Put")

    async def write(key: str) -> None:
        # PutRequest: field 1 is the key, field 2 the value, both bytes.
        name, value = key.encode(), PAYLOAD.encode()
        await send(b"\x0a" + bytes([len(name)]) + name + b"\x12\x80\x02" + value, timeout=30)

    for _ in range(100):  # until it has a leader
        try:
            await write("first")
            break
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.2)
    figures = {f"etcd, {clients} clients": await measured(write, clients, seconds, pids) for clients in CLIENTS}
    await connection.close()
    return figures


def processor_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_percent(pids: list[int], seconds: float) -> list[float]:
    """Of one core, each process, while nobody asks anything."""
    before = [processor_s(pid) for pid in pids]
    time.sleep(seconds)
    return [round((processor_s(pid) - was) / seconds * 100, 2) for pid, was in zip(pids, before, strict=True)]


def run(*, seconds: float, idle_s: float) -> None:
    """Measure, print, keep."""
    directory = Path(tempfile.mkdtemp(prefix="shoal-commits-", dir="/var/tmp"))
    figures: dict[str, Any] = {"payload_bytes": len(PAYLOAD), "seconds": seconds}
    try:
        with managers(directory) as pids:
            figures["idle_percent_of_a_core"] = {"shoal": idle_percent(pids, idle_s)}
            figures |= asyncio.run(of_managers(directory, seconds, pids))
        with etcd(directory) as pids:
            time.sleep(3)
            figures["idle_percent_of_a_core"]["etcd"] = idle_percent(pids, idle_s)
            figures |= asyncio.run(of_etcd(seconds, pids))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for name, value in figures.items():
        print(f"{name:<24} {json.dumps(value)}")
    print(f"kept in {keep('commits', figures)}")


if __name__ == "__main__":
    random.seed()
    asyncio.run(member(int(sys.argv[1]), Path(sys.argv[2])))
