"""Finding the object that a user means, and the lists that filters select. Pure reads of a view.

`ref` is tried as an id, then as a name, then as a unique prefix of an id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from api.errors import InvalidArgument, NotFound
from api.types.objects import Node, Service, Task, TaskState
from manager.store.view import View

T = TypeVar("T", Node, Service, Task)
Filters = Mapping[str, Sequence[str]]


def find_service(view: View, ref: str) -> Service:
    """Raises NotFound `service x not found`."""
    named = view.service_named(ref)
    return view.get(Service, ref) or named or _by_prefix("service", view.all(Service), ref)


def find_node(view: View, ref: str) -> Node:
    """Raises NotFound `node x not found`; a host name that several nodes have is ambiguous."""
    exact = view.get(Node, ref)
    if exact is not None:
        return exact
    named = [node for node in view.all(Node) if ref and ref in (hostname(node), node.spec.name)]
    if len(named) == 1:
        return named[0]
    if named:
        raise InvalidArgument(f"node {ref} is ambiguous ({len(named)} matches found)")
    return _by_prefix("node", view.all(Node), ref)


def find_task(view: View, ref: str) -> Task:
    exact = view.get(Task, ref)
    if exact is not None:
        return exact
    named = [task for task in view.all(Task) if task.name == ref]
    return named[0] if named else _by_prefix("task", view.all(Task), ref)


def hostname(node: Node) -> str:
    return node.description.hostname if node.description is not None else ""


def _by_prefix(noun: str, items: Iterable[T], ref: str) -> T:
    found = [item for item in items if ref and item.id.startswith(ref)]
    if not found:
        raise NotFound(f"{noun} {ref} not found")
    if len(found) > 1:
        raise InvalidArgument(f"{noun} {ref} is ambiguous ({len(found)} matches found)")
    return found[0]


def list_services(view: View, filters: Filters) -> list[Service]:
    return _select(
        view.all(Service),
        filters,
        {
            "id": lambda service, value: service.id.startswith(value),
            "name": lambda service, value: service.spec.name.startswith(value),
            "label": lambda service, value: _has_label(service.spec.labels, value),
            "mode": lambda service, value: value == ("global" if service.spec.mode.global_ else "replicated"),
        },
    )


def list_nodes(view: View, filters: Filters) -> list[Node]:
    for role in filters.get("role", ()):
        if role not in ("worker", "manager"):
            raise InvalidArgument(f"Invalid role filter: '{role}'")
    for membership in filters.get("membership", ()):
        if membership not in ("accepted", "pending"):
            raise InvalidArgument(f"Invalid membership filter: '{membership}'")
    return _select(
        view.all(Node),
        filters,
        {
            "id": lambda node, value: node.id.startswith(value),
            "name": lambda node, value: (
                hostname(node).startswith(value) or (bool(node.spec.name) and node.spec.name.startswith(value))
            ),
            "label": lambda node, value: _has_label(
                node.description.engine.labels if node.description is not None else {}, value
            ),
            "node.label": lambda node, value: _has_label(node.spec.labels, value),
            "role": lambda node, value: node.spec.role == value,
            "membership": lambda node, value: value == "accepted",
        },
    )


def list_tasks(view: View, filters: Filters, self_id: str = "") -> list[Task]:
    """`service` and `node` take ids or names of what exists; `self` is the asked node.

    Raises NotFound for a service or node that does not exist, InvalidArgument for an unknown desired state.
    """
    services = {find_service(view, ref).id for ref in filters.get("service", ())}
    nodes = {find_node(view, self_id if ref == "self" else ref).id for ref in filters.get("node", ())}
    for state in filters.get("desired-state", ()):
        if state.upper() not in TaskState.__members__:
            raise InvalidArgument(f"Invalid desired-state filter: '{state}'")
    return _select(
        view.all(Task),
        filters,
        {
            "id": lambda task, value: task.id.startswith(value),
            "name": lambda task, value: task.name.startswith(value),
            "service": lambda task, value: task.service_id in services,
            "node": lambda task, value: task.node_id in nodes,
            "label": lambda task, value: _has_label(task.labels, value),
            "_up-to-date": lambda task, value: _up_to_date(view, task) is (value.lower() in ("1", "true")),
            "runtime": lambda task, value: value == "container",
            "desired-state": lambda task, value: task.desired_state.label == value.lower(),
        },
    )


def _up_to_date(view: View, task: Task) -> bool:
    """Whether the task was made from its service's present spec."""
    service = view.get(Service, task.service_id)
    return service is not None and task.spec == service.spec.task_template


def _select(items: Iterable[T], filters: Filters, tests: Mapping[str, Callable[[T, str], bool]]) -> list[T]:
    unknown = set(filters) - set(tests)
    if unknown:
        raise InvalidArgument(f"Invalid filter '{min(unknown)}'")
    return [
        item
        for item in items
        if all(not values or any(tests[name](item, value) for value in values) for name, values in filters.items())
    ]


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """`key` or `key=value`."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)
