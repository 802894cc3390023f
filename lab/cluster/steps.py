"""What the phrases of scenarios mean. Actions act once; facts say what is amiss, or nothing when they hold."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Sequence

from lab.cluster.cluster import Cluster, docker, hosts, nodes
from lab.cluster.scenario import BadScenario, Scenario, Step
from lab.paths import LabError

GRACE = ("--stop-grace-period", "1s")
LOOK_AGAIN_S = 0.25


class World:
    """A cluster, and what a scenario has done to it so far."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.broken: dict[str, Callable[[str], None]] = {}
        """Hosts not to be asked, and how each is mended."""
        self.leader = ""
        """Who led when a scenario last asked."""
        self.noted: set[str] = set()
        """Tasks that ran when a scenario last asked."""

    def docker(self, *argv: str) -> str:
        """The docker CLI on a manager that is whole."""
        via = next(host for host in self.cluster.managers if host not in self.broken)
        return docker(self.cluster, via, *argv)

    def break_host(self, host: str, how: Callable[[str], None], mend: Callable[[str], None]) -> None:
        """Do something to a host that `mend` undoes."""
        self.broken[host] = mend
        how(host)

    def mend(self, host: str) -> None:
        """Undo what was done to it."""
        self.broken[host](host)
        del self.broken[host]

    def tasks(self, service: str) -> list[dict[str, str]]:
        """The rows of `docker service ps` that are wanted and run."""
        wanted = ("--filter", "desired-state=running", "--no-trunc", "--format", "{{json .}}")
        rows = [json.loads(line) for line in self.docker("service", "ps", *wanted, service).splitlines()]
        return [row for row in rows if row["CurrentState"].startswith("Running")]

    def containers(self, service: str) -> dict[str, int]:
        """Running containers of a service on each whole host, as its own engine counts them."""
        label = f"label=com.docker.swarm.service.name={service}"
        whole = [host for host in hosts(self.cluster) if host not in self.broken]
        return {host: len(docker(self.cluster, host, "ps", "-q", "--filter", label).split()) for host in whole}

    def statuses(self) -> dict[str, dict[str, str]]:
        """The rows of `docker node ls` by host."""
        via = next(each for each in self.cluster.managers if each not in self.broken)
        return {row["Hostname"]: row for row in nodes(self.cluster, via)}

    def leaders(self) -> list[str]:
        """Who leads, as the others say."""
        return [host for host, row in self.statuses().items() if row["ManagerStatus"] == "Leader"]


Act = Callable[..., str | None]
PHRASES: list[tuple[re.Pattern[str], bool, Act]] = []


def action(phrase: str) -> Callable[[Act], Act]:
    """Something that is done once."""
    return _phrase(phrase, is_fact=False)


def fact(phrase: str) -> Callable[[Act], Act]:
    """Something that shall hold: answers what is amiss, "" when nothing is."""
    return _phrase(phrase, is_fact=True)


def _phrase(phrase: str, *, is_fact: bool) -> Callable[[Act], Act]:
    def put_down(act: Act) -> Act:
        PHRASES.append((re.compile(phrase), is_fact, act))
        return act

    return put_down


def find(step: Step) -> tuple[Act, tuple[str, ...]]:
    """What a step means. BadScenario if nothing, or a fact where an action should be."""
    for pattern, is_fact, act in PHRASES:
        if (fits := pattern.fullmatch(step.text)) and is_fact == (step.within_s is not None):
            return act, fits.groups()
    kind = "action" if step.within_s is None else "fact"
    raise BadScenario(f"{step.where}: no {kind} is called {step.text!r} (lab/cluster/steps.py has them all)")


def play(world: World, scenario: Scenario) -> None:
    """Play it to its end. LabError names the step that failed and what was amiss."""
    meant = [(step, *find(step)) for step in scenario.steps]
    try:
        for step, act, arguments in meant:
            if step.within_s is None:
                act(world, *arguments)
            else:
                _await(step, act, world, arguments)
    finally:
        clean_up(world)


def clean_up(world: World) -> None:
    """Mend all hosts and remove all services."""
    for host in list(world.broken):
        world.mend(host)
    left = world.docker("service", "ls", "-q").split()
    if left:
        world.docker("service", "rm", *left)


def _await(step: Step, act: Act, world: World, arguments: Sequence[str]) -> None:
    assert step.within_s is not None
    deadline = time.monotonic() + step.within_s
    while True:
        try:
            amiss = act(world, *arguments)
        except LabError as error:  # no leader for the moment, a daemon that is just starting
            amiss = str(error)
        if not amiss:
            return
        if time.monotonic() > deadline:
            raise LabError(f"{step.where}: not within {step.within_s} s: {step.text}: {amiss}")
        time.sleep(LOOK_AGAIN_S)


# ---- actions ----


@action(r"a service (\w+) of (\d+) replicas")
def _service(world: World, name: str, replicas: str) -> None:
    world.docker("service", "create", "--name", name, "--replicas", replicas, *GRACE, "busybox", "sleep", "1d")


@action(r"a global service (\w+) that answers on port (\d+)")
def _answering(world: World, name: str, port: str) -> None:
    command = ("busybox", "httpd", "-f", "-h", "/etc")
    world.docker("service", "create", "--name", name, "--mode", "global", *GRACE, "-p", f"{port}:80", *command)


@action(r"(\w+) is scaled to (\d+)")
def _scale(world: World, name: str, replicas: str) -> None:
    world.docker("service", "scale", f"{name}={replicas}")


@action(r"(\w+) is updated, (\d+) tasks at a time")
def _update(world: World, name: str, parallelism: str) -> None:
    world.docker("service", "update", "--update-parallelism", parallelism, "--env-add", f"AT={time.time()}", name)


@action(r"(\w+) is removed")
def _remove(world: World, name: str) -> None:
    world.docker("service", "rm", name)


@action(r"nodes that are silent for (\d+) s are down")
def _heartbeat(world: World, grace: str) -> None:
    world.docker("swarm", "update", "--dispatcher-heartbeat", f"{int(grace) / 3:.1f}s")


@action(r"we note the tasks of (\w+)")
def _note(world: World, name: str) -> None:
    world.noted = {row["ID"] for row in world.tasks(name)}


@action(r"shoald on (\w+) is killed")
def _kill(world: World, host: str) -> None:
    world.break_host(host, world.cluster.kill, world.cluster.start)


@action(r"shoald on the leader is killed")
def _kill_leader(world: World) -> None:
    (world.leader,) = world.leaders()
    _kill(world, world.leader)


@action(r"(\w+) loses its power")
def _power_off(world: World, host: str) -> None:
    world.break_host(host, world.cluster.power_off, world.cluster.power_on)


@action(r"(\w+) is cut off")
def _cut(world: World, host: str) -> None:
    world.break_host(host, world.cluster.cut, world.cluster.heal)


@action(r"(\w+) (?:is started again|has power again|is connected again)")
def _mend(world: World, host: str) -> None:
    world.mend(world.leader if host == "it" else host)


# ---- facts ----


@fact(r"all nodes are ready")
def _all_ready(world: World) -> str:
    rows = world.statuses()
    amiss = [host for host in hosts(world.cluster) if rows.get(host, {}).get("Status") != "Ready"]
    return f"not ready: {amiss}" if amiss else ""


@fact(r"(\w+) is (down|ready)")
def _node_is(world: World, host: str, status: str) -> str:
    now = world.statuses().get(host, {}).get("Status", "unknown")
    return "" if now.lower() == status else f"{host} is {now}"


@fact(r"another manager leads")
def _another_leads(world: World) -> str:
    leaders = world.leaders()
    return "" if leaders and leaders != [world.leader] else f"leaders: {leaders}"


@fact(r"(\d+) tasks of (\w+) run, (\d+) on each node")
def _spread(world: World, count: str, name: str, each: str) -> str:
    return _exactly(world, count, name) or _counts(world, name, lambda host, now: now == int(each))


@fact(r"(\d+) tasks of (\w+) run, none on (\w+)")
def _none_on(world: World, count: str, name: str, host: str) -> str:
    on_it = [row["ID"] for row in world.tasks(name) if row["Node"] == host]
    return _exactly(world, count, name) or (f"{on_it} are on {host}" if on_it else "")


@fact(r"exactly (\d+) tasks of (\w+) run")
def _exactly(world: World, count: str, name: str) -> str:
    tasks = len(world.tasks(name))
    if tasks != int(count):
        return f"the swarm has {tasks}"
    found = world.containers(name)
    # A host that is broken can't be asked: what it still runs is its own affair until it is back.
    expected = int(count) - sum(1 for row in world.tasks(name) if row["Node"] in world.broken)
    return "" if sum(found.values()) == expected else f"the engines have {found}"


@fact(r"no container of (\w+) is left")
def _none_left(world: World, name: str) -> str:
    return _counts(world, name, lambda host, now: now == 0)


@fact(r"the tasks of (\w+) are the same")
def _same(world: World, name: str) -> str:
    now = {row["ID"] for row in world.tasks(name)}
    return "" if now == world.noted else f"{len(now - world.noted)} new, {len(world.noted - now)} gone"


@fact(r"the tasks of (\w+) are all new")
def _new(world: World, name: str) -> str:
    left = {row["ID"] for row in world.tasks(name)} & world.noted
    return f"{len(left)} are old" if left else ""


@fact(r"port (\d+) answers on every node")
def _answers(world: World, port: str) -> str:
    program = "import sys, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(sys.argv[1], timeout=2).read()"
    for host in hosts(world.cluster):
        url = f"http://127.0.0.1:{port}/hostname"
        done = world.cluster.run(host, "python3", "-I", "-c", program, url)
        if done.returncode != 0:
            return f"not on {host}: {done.stderr.strip().rpartition(chr(10))[2]}"
    return ""


def _counts(world: World, name: str, fits: Callable[[str, int], bool]) -> str:
    amiss = {host: now for host, now in world.containers(name).items() if not fits(host, now)}
    return f"containers: {amiss}" if amiss else ""


def play_all(world: World, scenarios: Sequence[Scenario], say: Callable[[str], None] | None = None) -> list[str]:
    """Play them one after the other; the names of those that failed, each with its reason."""
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    failed = []
    for scenario in scenarios:
        began = time.monotonic()
        try:
            play(world, scenario)
        except (LabError, OSError) as error:
            failed.append(f"{scenario.name}: {error}")
            say(f"FAILED {scenario.name}: {error}")
            with contextlib.suppress(LabError):
                clean_up(world)
        else:
            say(f"ok {scenario.name} ({time.monotonic() - began:.1f} s)")
    return failed
