"""`python -m tests.simulation --seed N | --seeds A..B`: exit status 1 and the seeds that failed, if any."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.simulation.checks import Violation
from tests.simulation.scenario import Outcome, Scenario


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="run one seed and print its stack when it fails")
    which.add_argument("--seeds", metavar="A..B", help="run seeds A to B (B not included)")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        print(Scenario(arguments.seed).run())
        return 0
    first, _, last = arguments.seeds.partition("..")
    failed: list[int] = []
    outcomes: list[Outcome] = []
    start = time.monotonic()
    for seed in range(int(first), int(last)):
        try:
            outcomes.append(Scenario(seed).run())
        except Violation as error:
            failed.append(seed)
            print(error, flush=True)
        except Exception:  # noqa: BLE001 - one seed's crash must not end the run; its stack is printed
            failed.append(seed)
            print(f"seed {seed}:", traceback.format_exc(), flush=True)
    if outcomes:
        recovery = sorted(outcome.recovery_ms for outcome in outcomes)
        print(
            f"{len(outcomes)} seeds passed in {time.monotonic() - start:.0f} s:"
            f" {sum(outcome.steps for outcome in outcomes)} steps,"
            f" {sum(outcome.elections for outcome in outcomes)} elections,"
            f" {sum(outcome.committed for outcome in outcomes)} entries committed;"
            f" recovery median {recovery[len(recovery) // 2]:.0f} ms, worst {recovery[-1]:.0f} ms (virtual)"
        )
    print(f"failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
