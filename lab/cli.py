"""`script/lab`: the command line of the lab. Thin: parse, call `Lab`, print."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from lab import scenarios, swarm
from lab import state as states
from lab.lab import Lab, ping
from lab.paths import LabError
from lab.state import alive


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    rest: list[str] = []
    if "--" in words:  # what follows belongs to the command run inside the host
        cut = words.index("--")
        words, rest = words[:cut], words[cut + 1 :]
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.call(Lab(arguments.name), arguments, rest) or 0)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def up(lab: Lab, a: argparse.Namespace, rest: list[str]) -> None:
    """lab up"""
    extra = [*a.daemon_arg, *rest]
    lab.up(
        managers=a.managers,
        workers=a.workers,
        engine=a.engine,
        registry=not a.no_registry,
        daemon_args=extra,
        timeout_s=a.timeout,
    )
    if not a.no_swarm:
        try:
            swarm.form(lab, timeout_s=a.timeout)
        except LabError:
            if not a.keep:
                lab.down()
            raise
    first = next(iter(lab.state().hosts))
    name = "" if lab.name == "lab" else f" --name {lab.name}"
    what = "info" if a.no_swarm else "node ls"
    print(f"Lab is up: {', '.join(lab.state().hosts)}. Next:")
    print(f"  script/lab{name} exec {first} -- docker {what}")
    print(f"  script/lab{name} status | logs {first} -f | kill {first} | partition … | down")
    print(f"  export DOCKER_HOST=unix://{lab.socket(first)}")


def down(lab: Lab, a: argparse.Namespace, rest: list[str]) -> None:
    """lab down"""
    lab.down()


def status(lab: Lab, a: argparse.Namespace, rest: list[str]) -> None:
    """lab status"""
    state = lab.state()
    print(f"{'HOST':<10}{'ROLE':<10}{'ADDRESS':<14}{'POWER':<7}{'ENGINE':<14}LOG")
    for host in [*state.hosts.values(), *filter(None, [state.registry])]:
        power = alive(host.init)
        engine = "stopped" if not alive(host.daemon) else "running"
        if engine == "running" and host.role in ("manager", "worker"):
            engine = "answering" if ping(lab.socket(host.name)) else "not answering"
        log = lab.log(host.name)
        print(f"{host.name:<10}{host.role:<10}{host.address:<14}{'on' if power else 'off':<7}{engine:<14}{log}")
    for cut in state.cuts:
        print(f"cut: {cut.source} > {cut.target}")


def execute(lab: Lab, a: argparse.Namespace, rest: list[str]) -> None:
    """lab exec: replaces this process, so terminals, signals and exit status are the command's own."""
    if not rest:
        raise LabError("what to run? script/lab exec HOST -- COMMAND …")
    command = lab.command(a.host, rest)
    sys.stdout.flush()
    os.execvpe(command[0], command, lab.environment())


def logs(lab: Lab, a: argparse.Namespace, rest: list[str]) -> int:
    """lab logs"""
    path = lab.log(a.host)
    follow = ["-f"] if a.follow else []
    return subprocess.run(["tail", "-n", "+1" if not a.tail else a.tail, *follow, str(path)], check=False).returncode


def partition(lab: Lab, a: argparse.Namespace, rest: list[str]) -> None:
    """lab partition A,B / C"""
    left, right = _sides(a.sides)
    lab.partition(left, right, one_way=a.one_way)


def heal(lab: Lab, a: argparse.Namespace, rest: list[str]) -> None:
    """lab heal [A / B]"""
    left, right = _sides(a.sides) if a.sides else ([], [])
    lab.heal(left, right)


def kill(lab: Lab, a: argparse.Namespace, rest: list[str]) -> None:
    """lab kill"""
    if a.whole:
        lab.power_off(a.host)
    else:
        lab.kill(a.host, a.signal)


def stop(lab: Lab, a: argparse.Namespace, rest: list[str]) -> None:
    """lab stop"""
    lab.stop(a.host)
    if a.whole:
        lab.power_off(a.host)


def start(lab: Lab, a: argparse.Namespace, rest: list[str]) -> None:
    """lab start"""
    lab.start(a.host, timeout_s=a.timeout)


def ip(lab: Lab, a: argparse.Namespace, rest: list[str]) -> None:
    """lab ip"""
    print(lab.host(a.host).address)


def listing(lab: Lab, a: argparse.Namespace, rest: list[str]) -> None:
    """lab list"""
    print("\n".join(states.names()) or "no lab is up")


def _sides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    left, slash, right = " ".join(words).partition("/")
    sides = [[name for name in side.replace(",", " ").split() if name] for side in (left, right)]
    if not slash or not all(sides):
        raise LabError("name two sides: script/lab partition m1,w1 / m2")
    return sides[0], sides[1]


def _signal(text: str) -> int:
    try:
        return int(text) if text.isdigit() else signal.Signals[f"SIG{text.upper().removeprefix('SIG')}"].value
    except KeyError:
        raise argparse.ArgumentTypeError(f"no such signal: {text}") from None


def scenario(lab: Lab, a: argparse.Namespace, rest: list[str]) -> int:
    """lab scenario"""
    if a.scenario:
        return scenarios.run(a.scenario, a.times)
    print("\n".join(scenarios.scenarios()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="script/lab", description="Several swarm hosts on this machine, made of namespaces. See docs/lab.md."
    )
    parser.add_argument("--name", default="lab", help="which lab (several may be up at once)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(word: str, call: object, text: str, *, host: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(word, help=text, description=text)
        sub.set_defaults(call=call)
        if host:
            sub.add_argument("host", help="m1, m2, …, w1, w2, … or registry")
        return sub

    sub = command("up", up, "make the hosts, start their engines, join them into a swarm")
    sub.add_argument("--managers", type=int, default=3)
    sub.add_argument("--workers", type=int, default=2)
    sub.add_argument("--no-swarm", action="store_true", help="leave the engines on their own")
    sub.add_argument("--no-registry", action="store_true", help="no local registry")
    sub.add_argument("--engine", choices=["shoald", "dockerd"], default="shoald", help="dockerd: the real one")
    sub.add_argument("--daemon-arg", action="append", default=[], metavar="ARG", help="passed to every engine")
    sub.add_argument("--timeout", type=float, default=60.0, help="seconds for each stage")
    sub.add_argument("--keep", action="store_true", help="leave the lab up when the swarm does not form")
    command("down", down, "remove the lab, whatever its state")
    command("status", status, "what runs where")
    command("list", listing, "labs on this machine")
    command("exec", execute, "run a command inside a host: exec m1 -- docker node ls", host=True)
    sub = command("logs", logs, "the engine's log", host=True)
    sub.add_argument("-f", "--follow", action="store_true")
    sub.add_argument("-n", "--tail", default="", help="only the last N lines")
    sub = command("partition", partition, "part hosts: partition m1,w1 / m2,m3 (adds to what is cut)")
    sub.add_argument("sides", nargs="+")
    sub.add_argument("--one-way", action="store_true", help="drop only what the left sends to the right")
    sub = command("heal", heal, "join what was parted: all, or heal m1 / m2")
    sub.add_argument("sides", nargs="*")
    sub = command("kill", kill, "kill the engine of a host (its containers run on)", host=True)
    sub.add_argument("--host", dest="whole", action="store_true", help="power loss: everything in the host")
    sub.add_argument("-s", "--signal", type=_signal, default=int(signal.SIGKILL))
    sub.add_argument("-9", dest="signal", action="store_const", const=int(signal.SIGKILL), help="the default")
    sub = command("stop", stop, "stop the engine of a host in good order", host=True)
    sub.add_argument("--host", dest="whole", action="store_true", help="then switch the host off")
    sub = command("start", start, "start a host and its engine", host=True)
    sub.add_argument("--timeout", type=float, default=60.0)
    sub = command("scenario", scenario, "run a fault scenario in a lab of its own; without a name: list them")
    sub.add_argument("scenario", nargs="?", default="", help="its name, or a part of it that fits no other")
    sub.add_argument("--times", type=int, default=1, help="in a row")
    command("ip", ip, "the address of a host", host=True)
    return parser
