"""Scenarios as data: shell steps that drive the docker CLI, and the differences that are known, each with its reason.

Invariant: a scenario's name is unique over all files, and its tag (what its objects are named after) is the same for
both engines, so that names never need normalising.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from pathlib import Path

DIRECTORY = Path(__file__).parent / "scenarios"
EVERYWHERE = "everywhere.txt"


class BadScenario(Exception):
    """A scenario file that can't be read; names the file and the line."""


@dataclass(frozen=True)
class Step:
    """One shell command; `compared` is False for set-up whose output is of no interest."""

    command: str
    compared: bool = True


class Kind(enum.Enum):
    """What is known of a difference, by the mark of its line."""

    MEANT = "~"
    """Meant; that it no longer shows is reported, so that the list stays true."""
    CHANCE = "~?"
    """Meant, and shows in some runs only."""
    OPEN = "!"
    """A bug of ours that is known and not mended yet; the scenario counts as one that is expected to fail."""


@dataclass(frozen=True)
class Known:
    """A difference that is known: `place` is a pattern (see `compare.Difference.place`), `reason` is for people."""

    place: str
    reason: str
    kind: Kind = Kind.MEANT

    def covers(self, place: str) -> bool:
        """Whether this place is it: `*` is anything within one word or key, `**` anything at all."""
        parts = re.split(r"(\*\*|\*)", self.place)
        pattern = "".join({"**": ".*", "*": r"[^./]*"}.get(part, re.escape(part)) for part in parts)
        return re.fullmatch(pattern, place) is not None


@dataclass(frozen=True)
class Scenario:
    """One script.

    `tag` is never part of an identity in hexadecimal. `alone`: it looks at the whole engine (all containers, prune), so
    nothing else may run beside it. `swarm`: the engine is a swarm of its own while it runs.
    """

    name: str
    group: str
    tag: str
    steps: tuple[Step, ...]
    known: tuple[Known, ...] = ()
    promises: tuple[str, ...] = ()
    alone: bool = False
    long: bool = False
    swarm: bool = False

    @property
    def id(self) -> str:
        """Name in pytest's listing."""
        return f"{self.group}: {self.name}"


@dataclass
class _Draft:
    name: str
    where: str
    steps: list[Step] = field(default_factory=list)
    known: list[Known] = field(default_factory=list)
    promises: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)


def load(directory: Path = DIRECTORY) -> list[Scenario]:
    """All scenarios, in the order of the files' names. BadScenario for a bad file or a name used twice."""
    found: list[Scenario] = []
    for path in sorted(directory.glob("*.txt")):
        if path.name == EVERYWHERE:
            continue
        for draft in _drafts(path):
            found.append(
                Scenario(
                    name=draft.name,
                    group=path.stem,
                    tag=f"x{len(found):03}",
                    steps=tuple(draft.steps),
                    known=tuple(draft.known),
                    promises=tuple(draft.promises),
                    alone="alone" in draft.flags,
                    long="long" in draft.flags,
                    swarm="swarm" in draft.flags,
                )
            )
            if not draft.steps:
                raise BadScenario(f"{draft.where}: {draft.name} has no steps")
    names = [each.id for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadScenario(f"used twice: {', '.join(twice)}")
    return found


def everywhere(directory: Path = DIRECTORY) -> tuple[Known, ...]:
    """Differences that are meant in every scenario."""
    path = directory / EVERYWHERE
    lines = path.read_text().splitlines() if path.exists() else []
    return tuple(
        _known(line, Kind.CHANCE, f"{path.name}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    )


def _drafts(path: Path) -> list[_Draft]:
    drafts: list[_Draft] = []
    pending = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        where = f"{path.name}:{number}"
        if pending or line.endswith("\\"):
            pending += line.removesuffix("\\") + ("\n" if line.endswith("\\") else "")
            if line.endswith("\\"):
                continue
            line, pending = pending.replace("\n", ""), ""
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("=== "):
            drafts.append(_Draft(line[4:].strip(), where))
        elif not drafts:
            raise BadScenario(f"{where}: a line before the first scenario")
        else:
            _take(drafts[-1], line, where)
    if pending:
        raise BadScenario(f"{path.name}: the last line goes on")
    return drafts


def _take(draft: _Draft, line: str, where: str) -> None:
    """One line of a scenario."""
    mark, _, rest = line.partition(" ")
    match mark:
        case "$":
            draft.steps.append(Step(rest.strip()))
        case "-":
            draft.steps.append(Step(rest.strip(), compared=False))
        case "~" | "~?" | "!":
            draft.known.append(_known(rest, Kind(mark), where))
        case "@alone" | "@long" | "@swarm":
            draft.flags.add(mark[1:])
        case "@promise":
            draft.promises += rest.split()
        case _:
            raise BadScenario(f"{where}: a line starts with `===`, `$`, `-`, `~`, `~?`, `!`, `@` or `#`: {line!r}")


def _known(text: str, kind: Kind, where: str) -> Known:
    place, separator, reason = text.partition(" -- ")
    if not separator or not reason.strip():
        raise BadScenario(f"{where}: a known difference is `place -- reason`")
    return Known(place.strip(), reason.strip(), kind)
