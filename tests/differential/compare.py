"""What two transcripts of one scenario differ in, and which of it is known. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.differential import normal
from tests.differential.scenario import Kind, Known, Step


@dataclass(frozen=True)
class Outcome:
    """What one step came to on one engine, already without this run's directory."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Difference:
    """`place` is `<step>.code`, `<step>.out`, `<step>.err`, or `<step>.json` followed by the way to the value,
    as in `2.json/0/State/Status`; steps count from 1."""

    place: str
    shoald: str
    dockerd: str

    def __str__(self) -> str:
        if "\n" in self.shoald + self.dockerd:
            return f"{self.place}\n  dockerd:\n{_indented(self.dockerd)}\n  shoald:\n{_indented(self.shoald)}"
        return f"{self.place}\n  dockerd: {self.dockerd}\n  shoald:  {self.shoald}"


@dataclass(frozen=True)
class Verdict:
    """`bugs` are differences nobody knew of; `open` are bugs that are known; `stale` says what no longer shows."""

    bugs: tuple[Difference, ...]
    open: tuple[Known, ...]
    stale: tuple[Known, ...]


def judge(
    steps: Sequence[Step],
    shoald: Sequence[Outcome],
    dockerd: Sequence[Outcome],
    known: Sequence[Known],
    everywhere: Sequence[Known] = (),
) -> Verdict:
    """Compare two transcripts step by step."""
    found = [
        difference
        for number, (step, ours, theirs) in enumerate(zip(steps, shoald, dockerd, strict=True), 1)
        if step.compared
        for difference in differences(number, ours, theirs)
    ]
    bugs = [each for each in found if not any(one.covers(each.place) for one in (*known, *everywhere))]
    shown = [one for one in known if any(one.covers(each.place) for each in found)]
    return Verdict(
        bugs=tuple(bugs),
        open=tuple(one for one in shown if one.kind is Kind.OPEN),
        stale=tuple(one for one in known if one.kind is not Kind.CHANCE and one not in shown),
    )


def differences(number: int, ours: Outcome, theirs: Outcome) -> list[Difference]:
    """What one step differs in."""
    found = []
    if ours.code != theirs.code:
        found.append(Difference(f"{number}.code", str(ours.code), str(theirs.code)))
    found += _stream(f"{number}.out", ours.out, theirs.out)
    found += _stream(f"{number}.err", ours.err, theirs.err)
    return found


def _stream(place: str, ours: str, theirs: str) -> list[Difference]:
    left, right = normal.parse(ours), normal.parse(theirs)
    if left is not None and right is not None:
        return list(_values(place.replace("out", "json"), normal.value(left), normal.value(right)))
    plain, expected = normal.text(ours), normal.text(theirs)
    return [] if plain == expected else [Difference(place, plain, expected)]


def _values(place: str, ours: normal.Json, theirs: normal.Json) -> list[Difference]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key in sorted({*ours, *theirs}):
            if key in ours and key in theirs:
                found += _values(f"{place}/{key}", ours[key], theirs[key])
            else:
                found.append(Difference(f"{place}/{key}", _shown(ours, key), _shown(theirs, key)))
        return found
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [each for index, (left, right) in pairs for each in _values(f"{place}/{index}", left, right)]
    # True == 1 in Python, not in JSON.
    if ours == theirs and type(ours) is type(theirs):
        return []
    return [Difference(place, repr(ours), repr(theirs))]


def _shown(values: dict[str, normal.Json], key: str) -> str:
    return repr(values[key]) if key in values else "(absent)"


def _indented(block: str) -> str:
    return "\n".join(f"    {line}" for line in block.split("\n"))
