"""Patterns of file names: those of COPY and ADD (one path component), and those of .dockerignore. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from api.errors import InvalidArgument

_WILD = re.compile(r"[*?\[\\]")


def has_wildcards(path: str) -> bool:
    """True for what is a pattern and no plain path."""
    return _WILD.search(path) is not None


def component_matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a file name matches. Raises InvalidArgument for a pattern that is none."""
    regex = _compile(_component(pattern), pattern)
    return lambda name: regex.fullmatch(name) is not None


def _compile(text: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.DOTALL)
    except re.error as error:
        raise InvalidArgument(f"syntax error in pattern {pattern!r}: {error}") from error


def _component(pattern: str) -> str:
    """A pattern as a regular expression; `*` and `?` stop at slashes, `**` does not."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            at += 2
            if pattern.startswith("/", at):
                at += 1
                parts.append("(?:.*/)?")
            else:
                parts.append(".*")
            continue
        if char == "*":
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "\\" and at + 1 < len(pattern):
            at += 1
            parts.append(re.escape(pattern[at]))
        elif char == "[":
            end = pattern.find("]", at + 2)
            if end < 0:
                raise InvalidArgument(f"syntax error in pattern {pattern!r}")
            inside = pattern[at + 1 : end].replace("[", "\\[")
            parts.append(f"[{inside}]")
            at = end
        else:
            parts.append(re.escape(char))
        at += 1
    return "".join(parts)


class Ignored:
    """The patterns of a .dockerignore: the last one that matches a path or a directory above it decides."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for line in lines:
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            keep = text.startswith("!")
            pattern = text.removeprefix("!").strip().strip("/").removeprefix("./")
            if pattern:
                self._rules.append((not keep, _compile(_component(pattern) + "(?:/.*)?", pattern)))

    def __call__(self, path: str) -> bool:
        """True when the path (relative, no leading slash) is to be left out."""
        found = False
        for ignore, pattern in self._rules:
            if pattern.fullmatch(path):
                found = ignore
        return found
