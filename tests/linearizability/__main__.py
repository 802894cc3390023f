"""`python -m tests.linearizability --seconds 600`: a long run, by hand, as root. Its numbers go to docs/TESTING.md."""

from __future__ import annotations

import argparse
import os
import sys

from lab import swarm
from lab.lab import running
from tests.linearizability.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.linearizability", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with running(f"lin{os.getpid()}", managers=3, registry=False) as lab:
        swarm.form(lab)
        report = run(lab, ["m1", "m2", "m3"], seconds=arguments.seconds, clients=arguments.clients, seed=arguments.seed)
    print(report.text)
    for violation in report.violations:
        print(violation)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
