"""What a log driver tells of the container beside each line: its tag, and the labels and variables that were asked for.

Pure. A tag is a template in Go's form; of its language the fields are offered, nothing that computes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from api.errors import InvalidArgument

DEFAULT_TAG = "{{.ID}}"
_ACTION = re.compile(r"\{\{(.*?)\}\}")


@dataclass(frozen=True)
class About:
    """One container, as its driver knows it."""

    id: str
    name: str
    image: str
    """As the user named it."""
    image_id: str
    command: str
    """Program and arguments, with spaces between them."""
    created: str
    """RFC 3339 with nanoseconds."""
    hostname: str
    """Of this host."""
    pid: int
    """The daemon's, which syslog lines carry."""
    tag: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)
    """The labels and variables that the options ask for."""


def chosen(options: Mapping[str, str], labels: Mapping[str, str], env: Sequence[str]) -> dict[str, str]:
    """What `labels`, `labels-regex`, `env` and `env-regex` pick out."""
    variables = dict(entry.split("=", 1) for entry in env if "=" in entry)
    return _picked(options, "labels", labels) | _picked(options, "env", variables)


def _picked(options: Mapping[str, str], name: str, values: Mapping[str, str]) -> dict[str, str]:
    names = {part.strip() for part in options.get(name, "").split(",")}
    pattern = options.get(f"{name}-regex", "")
    return {key: value for key, value in values.items() if key in names or (pattern and re.search(pattern, key))}


def tag(template: str, about: About) -> str:
    """The tag that a template makes. Raises InvalidArgument, in the words of Go's templates."""
    fields = {
        ".ID": about.id[:12],
        ".FullID": about.id,
        ".Name": about.name,
        ".ImageID": about.image_id[:12],
        ".ImageFullID": about.image_id,
        ".ImageName": about.image,
        ".Command": about.command,
        ".DaemonName": "docker",
    }

    def value(match: re.Match[str]) -> str:
        wanted = match[1].strip()
        if wanted in fields:
            return fields[wanted]
        if re.fullmatch(r"\.\w+", wanted):
            raise InvalidArgument(
                f'template: log-tag:1:{match.start() + 2}: executing "log-tag" at <{wanted}>: '
                f"can't evaluate field {wanted[1:]} in type *logger.Info"
            )
        raise InvalidArgument(f"template: log-tag:1: {wanted!r}: only fields can be used, as {{{{.Name}}}}")

    found = _ACTION.sub(value, template or DEFAULT_TAG)
    if "{{" in _ACTION.sub("", template):
        raise InvalidArgument("template: log-tag:1: unclosed action")
    return found
