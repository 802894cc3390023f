"""Instructions that change a configuration without a build: `--change` of commit and import. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from api.errors import InvalidArgument
from worker.engine.builder.arguments import BuildArguments
from worker.engine.builder.dockerfile import parse
from worker.engine.builder.evaluate import Config, State, evaluate

_LINE = re.compile(r"^dockerfile parse error line \d+: ")
"""There is no file, and so there are no lines."""
ALLOWED = frozenset(
    {"CMD", "ENTRYPOINT", "HEALTHCHECK", "ENV", "EXPOSE", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
)


def apply_changes(config: Config, changes: Sequence[str]) -> Config:
    """`config` with the instructions applied, in order. Raises InvalidArgument naming the instruction."""
    if not any(change.strip() for change in changes):
        return dict(config)
    for change in changes:
        name = change.split(maxsplit=1)[0] if change.strip() else ""
        if name and name.upper() not in ALLOWED:
            raise InvalidArgument(f"{name.lower()} is not a valid change command")
    try:
        instructions = parse("\n".join(changes)).instructions
    except InvalidArgument as error:
        raise InvalidArgument(_LINE.sub("", error.message)) from None
    for instruction in instructions:
        if instruction.name not in ALLOWED:  # of a second line
            raise InvalidArgument(f"{instruction.name.lower()} is not a valid change command")
    state = State(dict(config), BuildArguments({}))
    for instruction in instructions:
        state.config, _words = evaluate(instruction, state)
    return state.config
