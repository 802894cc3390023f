"""Swarm networks under faults, each a named scenario with a deadline; what must hold after each is one thing
(network_truth.py). CI plays them short, SHOAL_LONG=1 (or `script/lab scenario NAME`) in full; SHOAL_ROUNDS says how
often.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab import swarm
from lab.lab import Lab
from tests.e2e.network_truth import CLIENTS, client, join_clients, truth, wait_true
from tests.e2e.networks import HEALED_S, LONG, NET, long_only, overlay, rounds, wait_published, web
from tests.e2e.test_swarm import HOSTS, cli, wait_running

pytestmark = pytest.mark.timeout(3 * 3600 if LONG else 120)
SEED = int(os.environ.get("SHOAL_SEED") or random.randrange(2**32))
FOLLOW_S = 5
"""After a task ended or began to run, every table says so within this time."""


@pytest.fixture(scope="module")
def _served(_swarm: Lab) -> Iterator[Lab]:
    with overlay(_swarm, NET):
        web(_swarm, "web", "--network", NET, "-p", "8093:80", "--restart-delay", "0s", replicas=5)
        join_clients(_swarm, NET)
        yield _swarm


@pytest.fixture
def served(_served: Lab) -> Iterator[Lab]:
    """The swarm of five with a network, five tasks of `web` and a client on each host, all right; so it is left."""
    wait_true(_served, NET, timeout_s=HEALED_S)
    yield _served
    _served.heal()
    swarm.wait_ready(_served, 5)
    if cli(_served).ok("service", "inspect", "--format", "{{.Spec.Mode.Replicated.Replicas}}", "web").strip() != "5":
        cli(_served).ok("service", "scale", "web=5")
    wait_running(_served, "web", 5)
    wait_running(_served, CLIENTS, 5)


def others(*hosts: str) -> list[str]:
    return [host for host in HOSTS if host not in hosts]


@contextmanager
def cut_off(lab: Lab, host: str) -> Iterator[None]:
    lab.partition([host], others(host))
    try:
        yield
    finally:
        lab.heal()


VXLAN, CONTROL = "udp dport 4789", "tcp dport 2377"


@contextmanager
def blocked(lab: Lab, host: str, *matches: str) -> Iterator[None]:
    """A firewall on the host drops what matches, and its answers, in both directions."""
    both = [form for match in matches for form in (match, match.replace("dport", "sport"))]
    rules = "".join(f"add rule inet fault {hook} {form} drop\n" for hook in ("input", "output") for form in both)
    chains = "".join(
        f"add chain inet fault {hook} {{ type filter hook {hook} priority -200; }}\n" for hook in ("input", "output")
    )
    done = lab.run(host, "sh", "-c", 'printf "%s" "$1" | nft -f -', "sh", f"add table inet fault\n{chains}{rules}")
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        lab.run(host, "nft", "delete", "table", "inet", "fault")


def test_a_node_cut_off_is_right_again_after(served: Lab) -> None:
    """5, 15, 30 and 120 seconds in turn, while the rest of the swarm changes."""
    for turn in range(rounds(1, 50)):
        host, seconds = ("w1", "w2")[turn % 2], (5, 15, 30, 120)[turn % 4]
        with cut_off(served, host):
            cut = time.monotonic()
            cli(served).ok("service", "scale", f"web={5 + turn % 2 + 1}")
            time.sleep(max(0, seconds - (time.monotonic() - cut)))
        wait_true(served, NET, timeout_s=HEALED_S)
        swarm.wait_ready(served, 5)
        cli(served).ok("service", "scale", "web=5")
        wait_running(served, "web", 5)
        wait_true(served, NET, timeout_s=HEALED_S)


def test_random_task_kills_leave_no_dead_backend(served: Lab) -> None:
    """One to three at once; 2,000 in the long form."""
    rng, killed, wanted = random.Random(SEED), 0, rounds(6, 2_000)
    print(f"seed {SEED}")
    label = "label=com.docker.swarm.service.name=web"
    while killed < wanted:
        for host in rng.sample(HOSTS, rng.randrange(1, 4)):
            for container in cli(served, host).ok("ps", "-q", "--filter", label).split()[:1]:
                killed += not cli(served, host).run("kill", container).code  # it may have ended by itself
        wait_true(served, NET, timeout_s=FOLLOW_S, connect=False, final=False)
    wait_running(served, "web", 5)
    wait_true(served, NET, timeout_s=HEALED_S)


@pytest.mark.parametrize(
    "ports", [pytest.param((VXLAN,), id="vxlan"), pytest.param((CONTROL,), id="control"),
              pytest.param((VXLAN, CONTROL), id="both", marks=long_only)],
)  # fmt: skip
def test_a_node_with_blocked_ports(served: Lab, ports: tuple[str, ...]) -> None:
    """What is blocked fails while it is blocked and not longer; what is not goes on."""
    seconds = 40 if LONG else 3
    for _ in range(rounds(1, 5)):
        before = truth(served, NET, "m1")
        with blocked(served, "w1", *ports):
            begun = time.monotonic()
            cli(served).ok("service", "scale", "web=7")
            if ports == (VXLAN,):
                wait_running(served, "web", 7)
                wait_true(served, NET, timeout_s=FOLLOW_S, connect=False, final=False)
            if ports == (CONTROL,):  # what w1 knows leads to tasks that run on
                assert cross(served, "w1", set().union(*before.vips.values())) == []
            time.sleep(max(0, seconds - (time.monotonic() - begun)))
        wait_true(served, NET, timeout_s=HEALED_S)
        cli(served).ok("service", "scale", "web=5")
        swarm.wait_ready(served, 5)
        wait_running(served, "web", 5)
        wait_true(served, NET, timeout_s=HEALED_S)


def cross(lab: Lab, host: str, addresses: set[str]) -> list[str]:
    """Which addresses the client of a host can't connect to."""
    script = (
        "import socket,sys\nfor a in sys.argv[1:]:\n s=socket.socket(); s.settimeout(2)\n"
        " try: s.connect((a,80))\n except OSError as e: print(a,e)"
    )
    _, pid = client(lab, host)
    done = lab.run(host, "nsenter", "-t", str(pid), "-n", sys.executable, "-I", "-c", script, *addresses)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_flapping_link(served: Lab) -> None:
    """Down for a tenth of a second, up for a fifth; a hundred times in the long form."""
    for _ in range(rounds(6, 100)):
        for state, seconds in (("down", 0.1), ("up", 0.2)):
            done = served.run("switch", "ip", "link", "set", "w1", state)
            assert done.returncode == 0, done.stderr
            time.sleep(seconds)
    wait_true(served, NET, timeout_s=HEALED_S)
    swarm.wait_ready(served, 5)


@long_only
def test_after_a_reboot_of_all_hosts_the_networks_are_right(served: Lab) -> None:
    for _ in range(rounds(1, 3)):
        for host in HOSTS:
            served.power_off(host)
        for host in HOSTS:
            served.start(host)
        swarm.wait_ready(served, 5)
        wait_running(served, "web", 5)
        wait_running(served, "cli", 5)
        wait_true(served, NET, timeout_s=HEALED_S)
        for host in HOSTS:
            wait_published(served, host, 8093)
