"""The stages of a Dockerfile: what each FROM begins, what stands before the first, and which stages are built. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from api.errors import InvalidArgument
from worker.engine.builder.dockerfile import Dockerfile, Instruction
from worker.engine.builder.evaluate import check_health

_STAGE_NAME = re.compile(r"^[a-z][a-z0-9-_.]*$")


@dataclass(frozen=True)
class Stage:
    """A FROM and what follows it."""

    index: int
    name: str
    """Lower case; "" for none."""
    start: Instruction
    steps: tuple[Instruction, ...]


@dataclass(frozen=True)
class Plan:
    """What a build does, in order."""

    meta: tuple[Instruction, ...]
    """ARG before the first FROM."""
    stages: tuple[Stage, ...]
    escape: str

    @property
    def total(self) -> int:
        """How many steps are counted."""
        return len(self.meta) + sum(1 + len(stage.steps) for stage in self.stages)


def plan(dockerfile: Dockerfile, target: str, labels: Mapping[str, str]) -> Plan:
    """The stages up to `target` ("" is the last); `labels` are steps of their own at the end.

    Raises InvalidArgument for an instruction before the first FROM, a bad stage name, an unknown target.
    """
    meta: list[Instruction] = []
    drafts: list[tuple[Instruction, str, list[Instruction]]] = []
    for instruction in dockerfile.instructions:
        if instruction.name == "FROM":
            drafts.append((instruction, _name(instruction), []))
        elif drafts:
            if instruction.name == "HEALTHCHECK":
                check_health(instruction)
            drafts[-1][2].append(instruction)
        elif instruction.name == "ARG":
            meta.append(instruction)
        else:
            raise InvalidArgument("no build stage in current context")
    if not drafts:
        raise InvalidArgument("failed to parse Dockerfile: no FROM: no build stage in current context")
    stages = [Stage(index, name, start, tuple(steps)) for index, (start, name, steps) in enumerate(drafts)]
    if target:
        last = find(stages, target)
        if last is None:
            raise InvalidArgument(f"failed to reach build target {target} in Dockerfile")
        stages = stages[: last.index + 1]
    last = stages[-1]
    added = tuple(
        Instruction("LABEL", (f"{key}={value}",), f"LABEL {key}={value}", 0, literal=True)
        for key, value in sorted(labels.items())
    )
    stages[-1] = Stage(last.index, last.name, last.start, last.steps + added)
    return Plan(tuple(meta), tuple(stages), dockerfile.escape)


def find(stages: Sequence[Stage], text: str) -> Stage | None:
    """A stage by name (the latest of that name) or index."""
    for stage in reversed(stages):
        if stage.name and stage.name == text.lower():
            return stage
    if text.isdecimal() and int(text) < len(stages):
        return stages[int(text)]
    return None


def _name(start: Instruction) -> str:
    if len(start.args) == 1:
        return ""
    name = start.args[2].lower()
    if not _STAGE_NAME.fullmatch(name):
        raise InvalidArgument(
            f'dockerfile parse error line {start.line}: invalid name for build stage: "{start.args[2]}", name can\'t '
            "start with a number or contain symbols"
        )
    return name
