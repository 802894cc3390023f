"""Faults of managers, by name and with deadlines: leaders die, pause and are cut off; managers move, or are lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab import swarm
from lab.lab import Lab, running
from lab.paths import VENV_BIN, program
from lab.state import alive
from lab.wait import until
from tests.e2e.conftest import RUN
from tests.e2e.managers import LONG, MANAGERS, cli, label, leader, mark, settled
from tests.linearizability.run import run


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(f"{RUN}-mgr", managers=3, workers=1, registry=False) as found:
        swarm.form(found)
        yield found


@pytest.fixture
def three(lab: Lab) -> Iterator[Lab]:
    """Three managers and a worker, all well; put right again afterwards."""
    until(lambda: settled(lab, 4), timeout_s=60, what="a sound swarm")
    yield lab
    lab.heal()
    for name in (*MANAGERS, "w1"):
        if not alive(lab.host(name).daemon):
            lab.start(name)


def test_a_history_under_faults_is_linearizable(three: Lab) -> None:
    report = run(three, MANAGERS, seconds=14, clients=4, seed=5)
    print(report.text)
    assert report.violations == []
    assert report.outcomes["write"] > 20
    cli(three).ok("service", "rm", "one", "two")


def test_a_paused_leader_is_replaced_and_told_so_when_it_wakes(three: Lab) -> None:
    first = leader(three, "m1")
    assert first is not None
    others = [name for name in MANAGERS if name != first]
    three.kill(first, signal.SIGSTOP)
    paused = time.monotonic()
    try:
        until(lambda: leader(three, others[0]) in others, timeout_s=10, what="another leader")
        assert label(cli(three, others[1]), "paused")
        while LONG and time.monotonic() - paused < 30:
            assert label(cli(three, others[1]), "paused")
    finally:
        three.kill(first, signal.SIGCONT)
    # Its first answer is the truth, not what it knew before.
    assert mark(cli(three, first)) == "paused"


def test_a_leader_that_is_heard_by_nobody_or_hears_nobody_leads_no_more(three: Lab) -> None:
    for direction in ("mute", "deaf"):
        first = leader(three, "m1")
        assert first is not None
        others = [name for name in MANAGERS if name != first]
        pair = ([first], others) if direction == "mute" else (others, [first])
        three.partition(*pair, one_way=True)
        try:
            until(lambda o=others: leader(three, o[0]) in o, timeout_s=15, what="another leader")  # type: ignore[misc]
            assert label(cli(three, others[1]), direction)
        finally:
            three.heal()
        until(lambda: settled(three, 4), timeout_s=30, what="a sound swarm")
        assert mark(cli(three, first)) == direction


def test_what_node_ls_and_info_say_of_a_dead_manager_is_true_within_five_seconds(three: Lab) -> None:
    first = leader(three, "m1")
    victim = next(name for name in MANAGERS if name != first)
    via = next(name for name in MANAGERS if name not in (first, victim))

    def shown() -> str:
        return next(row["ManagerStatus"] for row in swarm.nodes(three, via) if row["Hostname"] == victim)

    three.kill(victim)
    until(lambda: shown() == "Unreachable", timeout_s=5, what="the dead manager to be shown so")
    info = "{{.Swarm.Nodes}} {{.Swarm.Managers}} {{.Swarm.ControlAvailable}} {{len .Swarm.RemoteManagers}}"
    assert cli(three, via).ok("info", "--format", info) == "4 3 true 3"
    assert cli(three, "w1").ok("info", "--format", info) == "0 0 false 3"
    three.start(victim)
    until(lambda: shown() == "Reachable", timeout_s=5, what="it to be shown as back")


def test_all_managers_die_at_once_and_come_back_in_any_order(three: Lab) -> None:
    assert label(cli(three), "before")
    for name in MANAGERS:
        three.kill(name)
    for name in ("m3", "m1"):
        three.start(name)
    until(lambda: leader(three, "m1"), timeout_s=15, what="a leader of two")
    assert mark(cli(three, "m3")) == "before"
    three.start("m2")
    until(lambda: settled(three, 4), timeout_s=30, what="a sound swarm")


def test_a_manager_that_lost_its_disk_joins_anew(three: Lab) -> None:
    three.kill("m3")
    assert three.run("m3", "rm", "-rf", "/var/lib/shoal/swarm").returncode == 0
    three.start("m3")
    old = next(row["ID"] for row in swarm.nodes(three, "m1") if row["Hostname"] == "m3")
    token = cli(three).ok("swarm", "join-token", "-q", "manager")
    cli(three, "m3").ok("swarm", "join", "--token", token, f"{three.host('m1').address}:2377")
    cli(three).ok("node", "demote", old)
    until(lambda: cli(three).run("node", "rm", "--force", old).code == 0, timeout_s=30, what="the old record to go")
    until(lambda: settled(three, 4), timeout_s=30, what="a sound swarm")


def test_the_leader_is_demoted_while_a_worker_is_promoted_and_both_change_back(three: Lab) -> None:
    first = leader(three, "m1")
    assert first is not None
    others = [name for name in MANAGERS if name != first]
    with ThreadPoolExecutor(2) as pool:
        down = pool.submit(cli(three, others[0]).run, "node", "demote", first)
        up = pool.submit(cli(three, others[1]).run, "node", "promote", "w1")
        assert (down.result().code, up.result().code) == (0, 0), (down.result().err, up.result().err)

    def changed() -> bool:
        roles = {row["Hostname"]: row["ManagerStatus"] for row in swarm.nodes(three, others[0])}
        return roles[first] == "" and roles["w1"] in ("Reachable", "Leader")

    until(changed, timeout_s=30, what="the roles to be exchanged")
    until(lambda: cli(three, "w1").run("node", "ls").code == 0, timeout_s=15, what="the new manager to answer")
    assert cli(three, first).bad("node", "ls").err
    for verb, name in (("promote", first), ("demote", "w1")):
        until(lambda v=verb, n=name: cli(three, others[0]).run("node", v, n).code == 0, timeout_s=15, what=verb)  # type: ignore[misc]
    until(lambda: settled(three, 4, others[0]), timeout_s=30, what="the old roles")


def renumber(lab: Lab, host: str, old: str, new: str) -> None:
    """The old address first: the first one of a subnet takes the others of it along."""
    for verb, address in (("del", old), ("add", new)):
        done = lab.run(host, str(program("ip")), "addr", verb, f"{address}/24", "dev", "eth0")
        assert done.returncode == 0, done.stderr


def test_a_manager_that_moves_is_found_at_its_new_address(three: Lab) -> None:
    old, new = three.host("m2").address, "10.99.0.62"
    three.stop("m2")
    try:
        renumber(three, "m2", old, new)
        three.start("m2")

        def moved() -> bool:
            found = cli(three).run("node", "inspect", "--format", "{{.ManagerStatus.Addr}}", "m2").out.strip()
            return found == f"{new}:2377" and settled(three, 4)

        until(moved, timeout_s=30, what="the others to know the new address")
    finally:
        three.stop("m2")
        renumber(three, "m2", new, old)
        three.start("m2")
    until(lambda: settled(three, 4), timeout_s=30, what="a sound swarm at the old address")


def root_ca(lab: Lab, host: str, command: str) -> str:
    done = lab.run(host, str(VENV_BIN / "shoald"), "ca", command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_root_is_replaced_while_a_worker_is_off_and_the_leader_dies(three: Lab) -> None:
    """Step by step (ca/rotation.py), and nobody is shut out at any of them."""
    first = leader(three, "m1")
    assert first is not None
    others = [name for name in MANAGERS if name != first]
    old = cli(three).ok("swarm", "join-token", "-q", "worker").split("-")[2]
    three.kill("w1")
    assert old in root_ca(three, others[0], "rotate")
    until(
        lambda: "certificate: w1\n" in root_ca(three, others[1], "status"), timeout_s=20, what="all but one to follow"
    )
    three.kill(first)
    until(lambda: leader(three, others[0]) in others, timeout_s=10, what="another leader")
    assert label(cli(three, others[1]), "between two roots")
    three.start("w1")
    until(lambda: "no rotation" in root_ca(three, others[0], "status"), timeout_s=20, what="the rotation to end")
    # The one that was off at the end knows the end only now.
    three.start(first)
    until(lambda: settled(three, 4), timeout_s=30, what="a sound swarm")
    new = cli(three).ok("swarm", "join-token", "-q", "worker").split("-")[2]
    assert new != old

    def one_root(host: str) -> bool:
        path = "/var/lib/shoal/swarm/certificates/swarm-root-ca.crt"
        return three.run(host, "cat", path).stdout.count("BEGIN CERTIFICATE") == 1

    for name in (*MANAGERS, "w1"):
        until(lambda n=name: one_root(n), timeout_s=10, what="the old root to be forgotten")  # type: ignore[misc]
    assert label(cli(three, first), "after it")


def test_a_backup_of_a_live_manager_becomes_a_swarm_elsewhere(three: Lab) -> None:
    assert label(cli(three), "saved")
    three.run("m2", "sh", "-c", "echo a long enough passphrase > /var/lib/pass")
    made = three.run("m2", str(VENV_BIN / "shoald"), "backup", "--key-file", "/var/lib/pass", "/var/lib/swarm.backup")
    assert (made.returncode, "verified" in made.stdout) == (0, True), made.stderr
    refused = three.run(
        "m2", str(VENV_BIN / "shoald"), "restore", "--key-file", "/var/lib/pass", "/var/lib/swarm.backup"
    )
    assert (refused.returncode, "stop it first" in refused.stderr) == (1, True)


def test_the_majority_is_lost_for_good_and_one_begins_anew(three: Lab) -> None:
    docker = cli(three)
    docker.ok("service", "create", "--name", "kept", "--constraint", "node.labels.no==where", "busybox", "true")
    assert label(docker, "kept")
    for name in ("m2", "m3"):
        three.kill(name)
    began = time.monotonic()
    docker.ok("swarm", "init", "--force-new-cluster", "--advertise-addr", three.host("m1").address)
    assert label(docker, "anew")
    print(f"force-new-cluster to the first write: {time.monotonic() - began:.1f} s")
    assert docker.ok("service", "ls", "--format", "{{.Name}}") == "kept"
    assert len(swarm.nodes(three, "m1")) == 4
    for name in ("m2", "m3"):
        three.start(name)
    until(lambda: settled(three, 4, reachable=1), timeout_s=40, what="the other managers to come back as workers")
    docker.ok("node", "promote", "m2", "m3")
    until(lambda: settled(three, 4), timeout_s=30, what="three managers again")
    docker.ok("service", "rm", "kept")


def test_two_nodes_join_while_a_third_is_removed(three: Lab) -> None:
    docker = cli(three)
    token = docker.ok("swarm", "join-token", "-q", "manager")
    for name in ("m3", "w1"):
        cli(three, name).ok("swarm", "leave", "--force")
    gone = {row["Hostname"]: row["ID"] for row in swarm.nodes(three, "m1")}
    join = ("swarm", "join", "--token", token, f"{three.host('m1').address}:2377")
    with ThreadPoolExecutor(3) as pool:
        joins = [
            pool.submit(cli(three, name).run, *join, "--advertise-addr", three.host(name).address)
            for name in ("m3", "w1")
        ]
        removal = pool.submit(docker.run, "node", "rm", "--force", gone["w1"])
        done = [each.result() for each in (*joins, removal)]
    assert [each.code for each in done] == [0, 0, 0], [each.err for each in done]
    until(lambda: docker.run("node", "rm", "--force", gone["m3"]).code == 0, timeout_s=30, what="the old m3 to go")
    until(lambda: settled(three, 4, reachable=4), timeout_s=30, what="four managers")
    docker.ok("node", "demote", "w1")
    until(lambda: settled(three, 4), timeout_s=30, what="a sound swarm")
