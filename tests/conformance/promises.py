"""The promises of the v1.24 document as ids, from conformance.yaml.

`<entry>.b<N>` (N-th behaviour, from 1), `<entry>.status.<code>`, `<entry>.query.<name>` (a filter:
`<entry>.query.filters.<name>`), `<entry>.body.<path>`, `<entry>.response.<path>`, and for the event stream
`<entry>.response.events.<type>.<action>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

SOURCE = Path(__file__).with_name("conformance.yaml")
KINDS = ("behaviour", "status", "query", "body", "response")


@dataclass(frozen=True)
class Promise:
    """One checkable sentence, code or field."""

    id: str
    section: str
    kind: str
    text: str


@cache
def all_promises() -> dict[str, Promise]:
    """Every promise by its id, in the document's order."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = yaml.load(SOURCE.read_text(), Loader=loader)
    promises = [promise for entry in entries for promise in _of_entry(entry)]
    by_id = {promise.id: promise for promise in promises}
    assert len(by_id) == len(promises), "two promises share an id"
    return by_id


def _of_entry(entry: Mapping[str, Any]) -> Iterator[Promise]:
    name, section = entry["id"], str(entry["section"])
    for number, text in enumerate(entry.get("behaviour") or (), start=1):
        yield Promise(f"{name}.b{number}", section, "behaviour", str(text))
    for code, text in (entry.get("status") or {}).items():
        yield Promise(f"{name}.status.{code}", section, "status", str(text))
    yield from _leaves(f"{name}.query", section, "query", entry.get("query") or {})
    yield from _leaves(f"{name}.body", section, "body", entry.get("body") or {})
    response = entry.get("response") or {}
    for field in response.get("fields") or ():
        yield Promise(f"{name}.response.{field}", section, "response", str(field))
    for kind, actions in (response.get("events") or {}).items():
        for action in actions:
            yield Promise(f"{name}.response.events.{kind}.{action}", section, "response", f"{kind} event {action}")


def _leaves(prefix: str, section: str, kind: str, tree: Mapping[str, Any]) -> Iterator[Promise]:
    for key, value in tree.items():
        name = prefix if key == "_self" else f"{prefix}.{key}"
        if isinstance(value, Mapping):
            yield from _leaves(name, section, kind, value)
        else:
            yield Promise(name, section, kind, str(value))
