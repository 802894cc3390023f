"""Build arguments: which ones a step may see, and with what value. Pure (Dockerfile reference, "ARG").

A value given with the request wins over the ARG's default, which wins over an ARG before the first FROM.
"""

from __future__ import annotations

from collections.abc import Mapping

PREDEFINED = frozenset(
    name
    for word in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (word, word.lower())
)
"""May be used without an ARG, and are no part of history and cache."""


class BuildArguments:
    """All arguments of one build; `begin_stage` forgets what the stage before had declared."""

    def __init__(self, given: Mapping[str, str | None]) -> None:
        self._given = dict(given)
        self._meta: dict[str, str | None] = {}
        self._stage: dict[str, str | None] = {}
        self._known: set[str] = set()

    def declare_meta(self, name: str, default: str | None) -> None:
        """An ARG before the first FROM."""
        self._meta[name] = default
        self._known.add(name)

    def begin_stage(self) -> None:
        self._stage = {}

    def declare(self, name: str, default: str | None) -> None:
        """An ARG within a stage."""
        self._stage[name] = default
        self._known.add(name)

    def meta(self) -> dict[str, str]:
        """What FROM may use."""
        return self._values(self._meta)

    def allowed(self, env: Mapping[str, str]) -> dict[str, str]:
        """What this stage may use and `env` does not set itself."""
        return {name: value for name, value in self._values(self._stage).items() if name not in env}

    def in_history(self, name: str) -> bool:
        """False for the predefined ones nobody declared."""
        return name in self._known or name not in PREDEFINED

    def unused(self) -> list[str]:
        """Given, and never declared."""
        return sorted(name for name in self._given if name not in self._known and name not in PREDEFINED)

    def _values(self, declared: Mapping[str, str | None]) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in sorted({*declared, *(PREDEFINED & self._given.keys())}):
            value = self._given.get(name)
            if name not in self._given:
                value = declared.get(name)
                value = value if value is not None else self._meta.get(name)
            if value is not None:
                found[name] = value
        return found
