"""`python -m tests.differential DOCKERD_SOCKET SHOALD_SOCKET [words]`: play the scenarios whose id has one of the words
on two engines that run already (labs, say) and print what differs. For writing scenarios and fixing the engine."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.differential import compare, scenario
from tests.differential.arena import prepare
from tests.differential.run import Engine, play_all


def main(argv: list[str]) -> int:
    """Exit status 1 if anything differs that is not known."""
    verbose = "-v" in argv
    sockets, words = [each for each in argv if each != "-v"][:2], [each for each in argv if each != "-v"][2:]
    chosen = [each for each in scenario.load() if not words or any(word in each.id for word in words)]
    common = scenario.everywhere()
    began, bad, owed = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory(prefix="differ-") as scratch:
        engines = [
            Engine(Path(socket), Path(scratch) / name)
            for socket, name in zip(sockets, ("dockerd", "shoald"), strict=True)
        ]
        for engine in engines:
            prepare(engine)
        theirs, ours = (play_all(chosen, engine) for engine in engines)
        for each in chosen:
            left, right = theirs[each.id].result(), ours[each.id].result()
            verdict = compare.judge(each.steps, right, left, each.known, common)
            owed += len(verdict.open)
            if verdict.bugs or verdict.stale or verbose:
                bad += bool(verdict.bugs or verdict.stale)
                print(f"\n=== {each.id}")
                for number, (step, outcome) in enumerate(zip(each.steps, left, strict=True), 1):
                    print(f"  {number}: {step.command}")
                    if verbose:
                        print(f"     -> {outcome}")
                for difference in verdict.bugs:
                    print(difference)
                for known in verdict.stale:
                    print(f"no longer differs: {known.kind.value} {known.place} -- {known.reason}")
    print(f"\n{len(chosen)} scenarios, {bad} differ, {owed} open bugs, {time.monotonic() - began:.1f} s")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
