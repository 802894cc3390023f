"""Managers whose disk, clock, certificates or version is not what it should be. By name, with deadlines.

All hosts keep their state in memory (a tmpfs, whose size can be changed) and see the time through libfaketime.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from lab import swarm
from lab.hosts import host_lib
from lab.lab import Lab, running
from lab.paths import ROOT, TOOLS, LabError, program
from lab.state import alive
from lab.wait import until
from tests.e2e.client import Docker
from tests.e2e.conftest import RUN
from tests.e2e.managers import LONG, MANAGERS, cli, label, leader, mark, settled
from tests.e2e.services import spec

pytestmark = pytest.mark.timeout(600 if LONG else 120)
KIB = 1024
HELPERS = ROOT / "tests" / "e2e"


def altered(how: str) -> list[str]:
    return ["env", f"PYTHONPATH={ROOT}", sys.executable, str(HELPERS / "altered.py"), how]


def faked_time() -> dict[str, str]:
    (library,) = (TOOLS / "root" / "usr" / "lib").glob("*/faketime/libfaketimeMT.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": "/var/lib/faketime",
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def set_clock(lab: Lab, host: str, seconds: int) -> None:
    """Its clock is off by so much from about a second after this."""
    (host_lib(lab.name, host) / "faketime").write_text(f"{seconds:+d}\n")


def prepare(lab: Lab, name: str) -> None:
    lab.stop(name)
    set_clock(lab, name, 0)
    assert lab.run(name, "mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", "/var/lib/shoal").returncode == 0
    lab.start(name, env=faked_time())


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(f"{RUN}-flt", managers=3, registry=False) as found:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda name: prepare(found, name), MANAGERS))
        swarm.form(found)
        yield found


@pytest.fixture
def three(lab: Lab) -> Iterator[Lab]:
    """Three managers, all well; put right again afterwards."""
    until(lambda: settled(lab, 3), timeout_s=60, what="a sound swarm")
    yield lab
    lab.heal()
    for name in MANAGERS:
        set_clock(lab, name, 0)
        lab.run(name, "mount", "-o", "remount,size=4g", "/var/lib/shoal")
        if not alive(lab.host(name).daemon):
            lab.start(name, env=faked_time())
    docker = cli(lab)
    until(lambda: leader(lab, "m1"), timeout_s=30, what="a leader")
    remove_joined(lab)
    if left := docker.ok("service", "ls", "-q").split():
        for service in left:
            until(lambda s=service: remove_service(lab, s), timeout_s=60, what="a service to be removed")  # type: ignore[misc]


def remove_service(lab: Lab, service: str) -> bool:
    return cli(lab).http("DELETE", f"/v1.24/services/{service}").status in (200, 404)


def first_and_others(lab: Lab) -> tuple[str, list[str]]:
    first = until(lambda: leader(lab, "m1"), timeout_s=20, what="a leader")
    return first, [name for name in MANAGERS if name != first]


def bulky(name: str, size: int) -> dict[str, object]:
    return spec(name, Labels={"bulk": "x" * size}, Mode={"Replicated": {"Replicas": 0}})


def swarm_error(lab: Lab, host: str) -> str:
    return cli(lab, host).ok("info", "--format", "{{.Swarm.Error}}")


def write_until_it_fails(lab: Lab, host: str, via: str, size: int) -> set[str]:
    """Services written through a sound manager until the manager on `host` has ended; those acknowledged."""
    acknowledged = set()
    deadline = time.monotonic() + 40
    for number in range(10_000):
        name = f"bulk{number}"
        if cli(lab, via).http("POST", "/v1.24/services/create", bulky(name, size)).status == 201:
            acknowledged.add(name)
        if swarm_error(lab, host):
            return acknowledged
        assert time.monotonic() < deadline, "the manager goes on without a disk"
    raise AssertionError


def comes_back_with(lab: Lab, host: str, acknowledged: set[str]) -> None:
    lab.stop(host)
    lab.start(host, env=faked_time())
    until(lambda: settled(lab, 3), timeout_s=30, what="a sound swarm")
    assert acknowledged <= set(cli(lab, host).ok("service", "ls", "--format", "{{.Name}}").split())


def test_the_leaders_disk_is_full(three: Lab) -> None:
    first, others = first_and_others(three)
    cli(three, first).ok("run", "-d", "--name", "bystander", "busybox", "sleep", "1d")
    used = int(three.run(first, "df", "-k", "--output=used", "/var/lib/shoal").stdout.split()[1])
    shrink = f"mount -o remount,size={used + 256}k /var/lib/shoal"
    assert three.run(first, "sh", "-c", shrink).returncode == 0
    acknowledged = write_until_it_fails(three, first, others[0], 200 * KIB)
    assert "full" in swarm_error(three, first)
    until(lambda: leader(three, others[0]) in others, timeout_s=10, what="another leader")
    assert label(cli(three, others[1]), "full")
    # Its containers and its API go on, and say what is wrong.
    assert cli(three, first).ok("ps", "--format", "{{.Names}}") == "bystander"
    assert "full" in cli(three, first).bad("node", "ls").err
    assert "full" in cli(three, first).bad("run", "-d", "busybox", "sleep", "1d").err
    assert three.run(first, "mount", "-o", "remount,size=4g", "/var/lib/shoal").returncode == 0
    comes_back_with(three, first, acknowledged)
    cli(three, first).ok("rm", "-f", "bystander")


@contextmanager
def failing_fsync(lab: Lab, host: str) -> Iterator[None]:
    """Every fsync of the engine fails with EIO."""
    daemon = lab.host(host).daemon
    assert daemon is not None
    calls = "fsync,fdatasync"
    command = [str(program("strace")), "-f", "-qq", "-p", str(daemon.pid), "-o", "/dev/null", "-e", f"trace={calls}"]
    tracer = subprocess.Popen([*command, "-e", f"inject={calls}:error=EIO"], stderr=subprocess.DEVNULL)
    try:
        traced = [
            Path(f"/proc/{daemon.pid}/task/{each.name}/status") for each in Path(f"/proc/{daemon.pid}/task").iterdir()
        ]
        until(
            lambda: all(f"TracerPid:\t{tracer.pid}\n" in status.read_text() for status in traced if status.exists()),
            timeout_s=10,
            what="the engine to be traced",
        )
        yield
    finally:
        tracer.terminate()
        tracer.wait(10)


def test_the_leaders_fsync_fails(three: Lab) -> None:
    first, others = first_and_others(three)
    with failing_fsync(three, first):
        acknowledged = write_until_it_fails(three, first, others[0], 10)
        assert "disk I/O error" in swarm_error(three, first)
        until(lambda: leader(three, others[0]) in others, timeout_s=10, what="another leader")
        assert label(cli(three, others[1]), "fsync")
    comes_back_with(three, first, acknowledged)


def join_many(
    lab: Lab, via: str, token: str, count: int = 1, *, rounds: int = 1, again_at: str = ""
) -> Iterator[dict[str, str]]:
    """Nodes join through one manager, from the host of another (tests/e2e/joiners.py): what became of each."""
    source = next(name for name in MANAGERS if name != via)
    command = ["env", f"PYTHONPATH={ROOT}", sys.executable, str(HELPERS / "joiners.py")]
    arguments = [f"{lab.host(via).address}:2377", token, str(count), str(rounds)]
    arguments += [f"{lab.host(again_at).address}:2377"] if again_at else []
    joiners = subprocess.Popen(lab.command(source, [*command, *arguments]), stdout=subprocess.PIPE, text=True)
    assert joiners.stdout is not None
    with joiners:
        yield from map(json.loads, joiners.stdout)


def remove_joined(lab: Lab) -> None:
    def gone() -> bool:
        try:
            left = [row["ID"] for row in swarm.nodes(lab, "m1") if not row["ManagerStatus"]]
        except LabError:
            return False
        for node in left:
            cli(lab).http("DELETE", f"/v1.24/nodes/{node}?force=1")
        return not left

    until(gone, timeout_s=60, what="the nodes that joined to be removed")


def rotated(docker: Docker) -> str:
    """The new worker token; asked for again when fifty joins on a busy machine have cost the leader."""
    rotate = ("swarm", "join-token", "--rotate", "-q", "worker")
    return until(lambda: docker.run(*rotate).out.strip() or None, timeout_s=60, what="the token to be rotated")


def test_a_token_is_rotated_while_fifty_nodes_join(three: Lab) -> None:
    _, others = first_and_others(three)
    docker = cli(three, others[0])
    old = docker.ok("swarm", "join-token", "-q", "worker")
    fresh = ""
    inside: list[str] = []
    refused: list[str] = []
    unknown: list[str] = []
    for outcome in join_many(three, others[1], old, 50, rounds=60):
        if "error" in outcome:
            refused.append(outcome["error"])
        elif "unknown" in outcome:
            unknown.append(outcome["unknown"])
        else:
            inside.append(outcome["id"])
            fresh = fresh or rotated(docker)
    print(f"{len(inside)} joined before each of the {len(refused)} was refused; of {len(unknown)} it is not known")
    assert len(refused) == 50
    assert all("invalid join token" in error for error in refused), set(refused)
    known = {row["ID"] for row in swarm.nodes(three, others[0])}
    assert set(inside) <= known
    assert len(known) <= 3 + len(inside) + len(unknown), "whoever was refused left no node behind"
    assert [list(outcome) for outcome in join_many(three, others[1], old)] == [["error"]]
    assert [list(outcome) for outcome in join_many(three, others[1], fresh)] == [["id"]]


def clock_of(lab: Lab, host: str) -> float:
    text = cli(lab, host).ok("info", "--format", "{{.SystemTime}}")
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()


@pytest.mark.skipif(not LONG, reason="long: script/lab scenario runs it")
def test_the_leaders_clock_jumps_by_an_hour_and_back(three: Lab) -> None:
    first, others = first_and_others(three)
    docker = cli(three, others[0])
    docker.ok("service", "create", "--name", "steady", "--replicas", "3", "busybox", "sleep", "1d")
    shown = ("service", "ps", "steady", "--format", "{{.ID}} {{.CurrentState}} {{.DesiredState}}")

    def tasks() -> list[str]:
        return sorted(line.split()[0] for line in docker.run(*shown).out.splitlines() if line.split()[1] == "Running")

    before = until(lambda: tasks() if len(tasks()) == 3 else None, timeout_s=30, what="the tasks to run")
    token = docker.ok("swarm", "join-token", "-q", "worker")
    for hours in (1, -1, 0):
        set_clock(three, first, hours * 3600)
        until(
            lambda h=hours: abs(clock_of(three, first) - time.time() - h * 3600) < 60,  # type: ignore[misc]
            timeout_s=15,
            what="the clock to jump",
        )
        for number in range(30):
            value = f"{hours}.{number}"
            assert label(docker, value)
            assert mark(cli(three, first)) == value
            until(lambda: settled(three, 3, others[1]), timeout_s=20, what="all to be well")
        if leader(three, others[0]) != first:
            print("another manager leads: a jump alone is no reason, a machine under load may be")
        # A certificate from that clock is good for the others, and one of theirs for it.
        for via, again_at in ((first, others[0]), (others[0], first)):
            (outcome,) = join_many(three, via, token, again_at=again_at)
            assert "id" in outcome, (hours, outcome)
        remove_joined(three)
    assert until(lambda: tasks() or None, timeout_s=20, what="the tasks to be listed") == before


def test_managers_are_upgraded_one_after_the_other(three: Lab) -> None:
    """The later version sends and stores fields that this one does not know; the way back is open as well."""
    versions = (
        [("m1", "newer"), ("m2", "newer"), ("m3", "newer"), ("m2", "")] if LONG else [("m1", "newer"), ("m1", "")]
    )
    for number, (name, how) in enumerate(versions):
        three.stop(name)
        if how:
            three.start(name, program=altered(how), env=faked_time())
        else:
            three.start(name, env=faked_time())
        until(lambda: settled(three, 3), timeout_s=30, what="a sound swarm")
        for via in MANAGERS:
            assert label(cli(three, via), f"{number}.{via}")
            assert {mark(cli(three, other)) for other in MANAGERS} == {f"{number}.{via}"}
        if number == 1:  # two of three are new: whoever leads, the other version follows
            cli(three).ok("service", "create", "--name", "mixed", "--replicas", "6", "busybox", "sleep", "1d")

            def running_tasks() -> bool:
                return cli(three).run("service", "ls", "--format", "{{.Replicas}}").out.strip() == "6/6"

            until(running_tasks, timeout_s=30, what="six tasks")
            cli(three).ok("service", "rm", "mixed")
    for name in ("m1", "m3") if LONG else ():
        three.stop(name)
        three.start(name, env=faked_time())


def write_bulk(lab: Lab, via: str, number: int, size: int, turn: int) -> None:
    """Create or change one of the large services; a leader that was lost meanwhile may have done it."""
    name = f"bulk{number}"
    body = bulky(name, size) | {"UpdateConfig": {"Parallelism": turn}}

    def written() -> bool:
        found = cli(lab, via).http("GET", f"/v1.24/services/{name}")
        if found.status == 404:
            return cli(lab, via).http("POST", "/v1.24/services/create", body).status == 201
        if found.status != 200:
            return False
        if found.value["Spec"].get("UpdateConfig", {}).get("Parallelism", 0) == turn:
            return True
        path = f"/v1.24/services/{name}/update?version={found.value['Version']['Index']}"
        return cli(lab, via).http("POST", path, body).status == 200

    until(written, timeout_s=60, what="a write")


def test_a_slow_follower_catches_up_by_a_snapshot(three: Lab) -> None:
    """Of the log it missed, the others kept a few entries only. Long: 1 GB of log over a state of 40 MB."""
    first, others = first_and_others(three)
    objects, rounds, size = (20, 50, KIB * KIB) if LONG else (10, 1, KIB * KIB)
    raft = cli(three, first).http("GET", "/v1.24/swarm").value
    limits = raft["Spec"]["Raft"] | {"SnapshotInterval": 200 if LONG else 8, "LogEntriesForSlowFollowers": 4}
    path = f"/v1.24/swarm/update?version={raft['Version']['Index']}"
    assert cli(three, first).http("POST", path, raft["Spec"] | {"Raft": limits}).status == 200
    slow = others[0]
    three.kill(slow)
    began = time.monotonic()
    for turn in range(1, rounds + 1):
        for number in range(objects):
            write_bulk(three, first, number, size, turn)
    written = time.monotonic()
    three.start(slow, env=faked_time())
    until(lambda: settled(three, 3, slow), timeout_s=120 if LONG else 40, what="the slow one to catch up")
    assert len(cli(three, slow).ok("service", "ls", "-q").split()) == objects
    assert b"raft snapshot taken" in three.log(first).read_bytes()
    megabytes = objects * rounds * size / 1e6
    print(f"{megabytes:.0f} MB written in {written - began:.1f} s, caught up in {time.monotonic() - written:.1f} s")


@pytest.mark.skipif(not LONG, reason="long: script/lab scenario runs it")
def test_certificates_of_a_minute_are_renewed_twice_under_write_load() -> None:
    life_s = 60
    with running(f"{RUN}-crt", managers=3, workers=1, registry=False) as lab:
        for name in (*MANAGERS, "w1"):
            lab.stop(name)
            lab.start(name, program=altered("short"))
        address = lab.host("m1").address
        cli(lab).ok("swarm", "init", "--advertise-addr", address, "--cert-expiry", f"{life_s}s")
        for name in ("m2", "m3", "w1"):
            role = "worker" if name == "w1" else "manager"
            token = cli(lab).ok("swarm", "join-token", "-q", role)
            cli(lab, name).ok("swarm", "join", "--token", token, f"{address}:2377")
        until(lambda: settled(lab, 4), timeout_s=30, what="a sound swarm")
        cli(lab).ok("service", "create", "--name", "steady", "--mode", "global", "busybox", "sleep", "1d")
        began, count, failed = time.monotonic(), 0, []
        while time.monotonic() - began < 2.5 * life_s:
            done = cli(lab, MANAGERS[count % 3]).run("node", "update", "--label-add", f"mark={count}", "m1")
            if done.code and "out of sequence" not in done.err:
                failed.append(f"{time.monotonic() - began:.0f} s: {done.err}")
            count += 1
        renewals = {name: lab.log(name).read_text().count("certificate renewed") for name in (*MANAGERS, "w1")}
        print(f"{count} writes, {len(failed)} failed; renewals {renewals}")
        assert min(renewals.values()) >= 2
        assert failed == []
        assert settled(lab, 4)
        ran = cli(lab).ok("service", "ps", "steady", "--format", "{{.CurrentState}}").splitlines()
        assert len(ran) == 4, "no task was replaced"


@pytest.mark.skipif(not LONG, reason="long: script/lab scenario runs it")
def test_five_managers_lose_two() -> None:
    with running(f"{RUN}-fiv", managers=5, registry=False) as lab:
        swarm.form(lab)
        names = [f"m{number}" for number in range(1, 6)]
        for turn in range(3):
            until(lambda: settled(lab, 5, reachable=5), timeout_s=30, what="five sound managers")
            first = leader(lab, "m1")
            lost = [first, next(name for name in names if name != first)]
            kept = [name for name in names if name not in lost]
            for name in lost:
                assert name is not None
                lab.kill(name)
            until(lambda k=kept: leader(lab, k[0]) in k, timeout_s=10, what="a leader among three")  # type: ignore[misc]
            assert label(cli(lab, kept[1]), str(turn))
            third = kept.pop()
            lab.kill(third)
            assert not label(cli(lab, kept[0]), "never"), "two of five are no majority"
            for name in (*lost, third):
                assert name is not None
                lab.start(name)
            # What was refused for want of an answer may have been done.
            until(lambda k=kept, t=turn: mark(cli(lab, k[0])) in (str(t), "never"), timeout_s=20, what="the label")  # type: ignore[misc]
