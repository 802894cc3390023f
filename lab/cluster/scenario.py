"""Scenarios as text: Given, When, Then, and deadlines. Pure.

Invariant: a fact always has a deadline, and an action never does; so no step waits for luck or for ever.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

KEYWORDS = ("Given", "When", "Then", "And")
_WITHIN = re.compile(r"within (\d+) s (.+)")


class BadScenario(Exception):
    """A scenario that can't be read; names the file and the line."""


@dataclass(frozen=True)
class Step:
    """One line. `within_s` is None for an action; a fact is looked at until it holds, or so many seconds have gone."""

    where: str
    keyword: str
    text: str
    within_s: int | None = None


@dataclass
class Scenario:
    """A name and what happens, in order."""

    name: str
    steps: list[Step] = field(default_factory=list)


def parse(text: str, source: str) -> list[Scenario]:
    """The scenarios of one file. BadScenario names the line that is none."""
    found: list[Scenario] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line, where = raw.strip(), f"{source}:{number}"
        keyword, _, rest = line.partition(" ")
        if not line or line.startswith("#"):
            continue
        if keyword == "Scenario:" and rest:
            found.append(Scenario(rest))
        elif keyword in KEYWORDS and rest and found:
            found[-1].steps.append(_step(found[-1], keyword, rest, where))
        else:
            raise BadScenario(f"{where}: a line is `Scenario: NAME`, or begins with {', '.join(KEYWORDS)}: {line!r}")
    names = [each.name for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadScenario(f"{source}: used twice: {', '.join(twice)}")
    return found


def load(directory: Path) -> list[Scenario]:
    """All scenarios below the directory, in the order of the files' names."""
    return [each for path in sorted(directory.glob("*.txt")) for each in parse(path.read_text(), path.name)]


def _step(scenario: Scenario, keyword: str, rest: str, where: str) -> Step:
    said = keyword
    if keyword == "And":
        if not scenario.steps:
            raise BadScenario(f"{where}: nothing comes before this And")
        keyword = scenario.steps[-1].keyword
    timed = _WITHIN.fullmatch(rest)
    if keyword == "Then" and timed is None:
        raise BadScenario(f"{where}: a fact needs its deadline: {said} within N s …")
    if keyword != "Then" and timed is not None:
        raise BadScenario(f"{where}: only a fact (Then) has a deadline")
    return Step(where, keyword, timed[2], int(timed[1])) if timed else Step(where, keyword, rest)
