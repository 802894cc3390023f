"""Whether a history of one compare-and-set register is linearizable. Pure.

Method: Wing and Gong's search, with Lowe's memory of (operations taken, value). Written values are unique, so a value
stands for one write. An operation that was refused changed nothing and is left out of the history; one whose outcome is
unknown may have taken effect at any time after it began, or never.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FOREVER = math.inf


@dataclass(frozen=True)
class Operation:
    """`began` and `ended` are of one clock."""

    began: float
    ended: float
    """FOREVER when the outcome is not known."""
    expected: str | None
    """What a write must find; None for a read."""
    value: str
    """Written, or read."""
    version: int = 0
    """Read: the object's version."""

    @property
    def known(self) -> bool:
        return self.ended != FOREVER


def linearizable(history: Sequence[Operation], initial: str) -> bool:
    """Whether some order of the operations explains all answers and keeps to the order of what did not overlap."""
    operations = sorted(history, key=lambda operation: operation.began)
    must = sum(1 << number for number, operation in enumerate(operations) if operation.known)
    seen: set[tuple[int, str]] = set()
    stack = [(0, initial)]
    while stack:
        taken, value = stack.pop()
        if taken & must == must:
            return True
        if (taken, value) in seen:
            continue
        seen.add((taken, value))
        stack.extend(_next(operations, taken, value))
    return False


def _next(operations: Sequence[Operation], taken: int, value: str) -> list[tuple[int, str]]:
    """The states after each operation that may come next: it began before any other that is left has ended."""
    first_end, found = FOREVER, []
    for number, operation in enumerate(operations):
        if taken >> number & 1:
            continue
        if operation.began > first_end:
            break
        first_end = min(first_end, operation.ended)
        found.append((number, operation))
    steps = []
    for number, operation in found:
        if operation.began > first_end:
            continue
        after = taken | 1 << number
        if operation.expected is None:
            if operation.value == value:
                # A read changes nothing: if it may come now, nothing is lost by taking it now.
                return [(after, value)]
        elif operation.expected == value:
            steps.append((after, operation.value))
    return steps


def version_faults(history: Sequence[Operation]) -> list[str]:
    """What the versions of reads show to be wrong: a value with two versions (applied twice), or one that goes back."""
    faults = []
    versions: dict[str, int] = {}
    reads = [operation for operation in history if operation.expected is None and operation.known]
    for read in reads:
        if versions.setdefault(read.value, read.version) != read.version and read.value != "":
            faults.append(f"{read.value!r} was seen at versions {versions[read.value]} and {read.version}")
    newest = 0
    ends = sorted(reads, key=lambda operation: operation.ended)
    done = 0
    for read in sorted(reads, key=lambda operation: operation.began):
        while done < len(ends) and ends[done].ended < read.began:
            newest = max(newest, ends[done].version)
            done += 1
        if read.version < newest:
            faults.append(f"version {read.version} was read after {newest}")
    return faults
