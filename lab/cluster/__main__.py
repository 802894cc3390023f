"""`python -m lab.cluster`: play the scenarios of compose-test on a cluster of one's choice."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from lab import lab as labs
from lab.cluster.cluster import Cluster, form
from lab.cluster.drivers import COMPOSE_TEST, ComposeCluster, LabCluster, VagrantCluster
from lab.cluster.scenario import BadScenario, load
from lab.cluster.steps import World, play_all
from lab.paths import LabError


@contextlib.contextmanager
def cluster(kind: str, name: str, *, keep: bool = False) -> Iterator[Cluster]:
    """A swarm of five for the time of a `with` block.

    `lab`: a lab of that name. `compose`: containers on the engine that DOCKER_HOST names, or on a lab host of their own
    if it names none. `vagrant`: machines that are up already.
    """
    with contextlib.ExitStack() as stack:
        made: Cluster
        if kind == "lab":
            made = LabCluster(stack.enter_context(labs.running(name, managers=3, workers=2, registry=False)))
        elif kind == "vagrant":
            made = VagrantCluster()
        else:
            docker_host = os.environ.get("DOCKER_HOST", "")
            if not docker_host:
                lab = stack.enter_context(labs.running(name, registry=False))
                docker_host = f"unix://{lab.socket('m1')}"
            made = compose = ComposeCluster(docker_host)
            if not keep:
                stack.callback(compose.down)
            compose.up()
        form(made)
        yield made
        if keep:
            stack.pop_all()


def main(argv: Sequence[str] | None = None) -> int:
    """Play; the exit status is 1 when a scenario failed."""
    parser = argparse.ArgumentParser(prog="compose-test/run", description="Break a swarm of five, by scenarios.")
    parser.add_argument("--on", choices=["lab", "compose", "vagrant"], default="compose", help="what it is made of")
    parser.add_argument("--times", type=int, default=1, help="in a row")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    parser.add_argument("--list", action="store_true", help="names of the scenarios")
    parser.add_argument("words", nargs="*", help="only scenarios with one of these words in their name")
    given = parser.parse_args(argv)
    try:
        scenarios = [
            each
            for each in load(COMPOSE_TEST / "scenarios")
            if not given.words or any(word in each.name for word in given.words)
        ]
        if given.list or not scenarios:
            print("\n".join(each.name for each in scenarios) or "no scenario has such a name")
            return 0 if scenarios else 2
        with cluster(given.on, f"c{os.getpid()}", keep=given.keep) as made:
            world = World(made)
            failed = [reason for _ in range(given.times) for reason in play_all(world, scenarios)]
    except (LabError, BadScenario) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
