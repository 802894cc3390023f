"""Placement constraints, `node.labels.zone == a`: their syntax and whether a node satisfies them. Pure.

Used by the control API (syntax), the orchestrator (tasks that no longer fit) and the scheduler.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from api import errors
from api.types.objects import Node

_KEY = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE)
_VALUE = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE)
_NODE_LABEL = "node.labels."
_ENGINE_LABEL = "engine.labels."


@dataclass(frozen=True)
class Constraint:
    key: str
    equal: bool
    value: str


def parse(expressions: Iterable[str]) -> list[Constraint]:
    """Parse `key == value` and `key != value`. Raises InvalidArgument naming the expression's fault."""
    return [_parse_one(expression) for expression in expressions]


def _parse_one(expression: str) -> Constraint:
    for operator in ("!=", "=="):
        if operator not in expression:
            continue
        key, _, value = (part.strip() for part in expression.partition(operator))
        if not _KEY.fullmatch(key):
            raise errors.InvalidArgument(f"key '{key}' is invalid")
        if not _VALUE.fullmatch(value):
            raise errors.InvalidArgument(f"value '{value}' is invalid")
        return Constraint(key, operator == "==", value)
    raise errors.InvalidArgument("constraint expected one operator from ==, !=")


def satisfied(constraints: Sequence[Constraint], node: Node) -> bool:
    """Whether the node meets all of them. An unknown key is met by no node; values compare without case."""
    return all(_met(constraint, node) for constraint in constraints)


def _met(constraint: Constraint, node: Node) -> bool:
    actual = _attribute(constraint.key, node)
    if actual is None:
        return False
    return (actual.casefold() == constraint.value.casefold()) is constraint.equal


def _attribute(key: str, node: Node) -> str | None:
    description = node.description
    name = key.casefold()
    if name.startswith(_NODE_LABEL):
        return node.spec.labels.get(key[len(_NODE_LABEL) :], "")
    if name.startswith(_ENGINE_LABEL):
        return description.engine.labels.get(key[len(_ENGINE_LABEL) :], "") if description is not None else ""
    known = {
        "node.id": node.id,
        "node.role": node.role,
        "node.hostname": description.hostname if description is not None else "",
        "node.platform.os": description.os if description is not None else "",
        "node.platform.arch": description.architecture if description is not None else "",
    }
    return known.get(name)
