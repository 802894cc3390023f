"""Walking a whole answer against the API document's list of its fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Kinds = type | tuple[type, ...]


def promises(entry: str, fields: Mapping[str, Kinds]) -> list[str]:
    """The ids of the promises that `assert_fields` checks."""
    return [f"{entry}.response.{path}" for path in fields]


def assert_fields(value: Any, fields: Mapping[str, Kinds]) -> None:
    """Every path leads to at least one value, and all it leads to are of its kinds, exactly (a bool is no int).
    Paths as in the conformance list: `[]` is every item of an array, `<x>` every key of an object."""
    for path, kinds in fields.items():
        found = list(_at(value, path.replace("[]", ".[]").strip(".").split(".")))
        assert found, f"{path}: nothing there in {value}"
        allowed = kinds if isinstance(kinds, tuple) else (kinds,)
        for each in found:
            assert type(each) in allowed, f"{path}: {each!r} is none of {allowed}"


def _at(value: Any, steps: list[str]) -> Iterator[Any]:
    if not steps:
        yield value
        return
    step, *rest = steps
    if step == "[]":
        assert isinstance(value, list), f"{value!r} is no array"
        for item in value:
            yield from _at(item, rest)
    elif step.startswith("<"):
        assert isinstance(value, dict), f"{value!r} is no object"
        for item in value.values():
            yield from _at(item, rest)
    elif isinstance(value, dict) and step in value:
        yield from _at(value[step], rest)
