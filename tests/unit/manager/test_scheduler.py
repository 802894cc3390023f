"""Placement: filters with their words, spread, groups, reservations."""

from __future__ import annotations

from collections import Counter

import pytest

from api.errors import InvalidArgument
from api.types.objects import EngineDescription, NodeDescription, NodeState, Task, TaskState
from base.clock import NS
from manager import constraints
from manager.scheduler.decide import decide
from tests.unit.manager import make


def pending(count: int, **arguments: object) -> list[Task]:
    service = make.service(task=make.template(**arguments))  # type: ignore[arg-type]
    return [make.task(service, slot, state=TaskState.PENDING, on="") for slot in range(1, count + 1)]


def test_equal_tasks_spread_evenly() -> None:
    nodes = [make.node(f"n{number}") for number in range(5)]
    placed = Counter(decision.node_id for decision in decide(pending(12), nodes, []))
    assert sorted(placed.values()) == [2, 2, 2, 3, 3]


def test_a_node_where_the_service_fails_again_and_again_comes_last() -> None:
    service = make.service()
    failed = [make.task(service, 1, state=TaskState.FAILED, on="n1", at=100) for _ in range(3)]
    busy = [make.task(service, slot, on="n2") for slot in (2, 3)]
    nodes = [make.node("n1"), make.node("n2")]

    def placed_on(failures: list[Task], now: int) -> str:
        (decision,) = decide(
            [make.task(service, 1, state=TaskState.PENDING, on="")], nodes, [*failures, *busy], now * NS
        )
        return decision.node_id

    assert placed_on(failed, 101) == "n2"
    assert placed_on(failed[:2], 101) == "n1", "not after a failure or two"
    assert placed_on(failed, 500) == "n1", "and not for ever"
    other = [make.task(make.service(version=2), 1, state=TaskState.FAILED, on="n1", at=100) for _ in range(3)]
    assert placed_on(other, 101) == "n1", "another version of the service is another matter"


def test_a_node_with_fewer_tasks_of_the_service_comes_first() -> None:
    service = make.service()
    other = make.service()
    other = type(other)(id="other", spec=other.spec)
    placed = [make.task(service, 1, on="n1"), *[make.task(other, slot, on="n2") for slot in range(1, 5)]]
    waiting = [make.task(service, 2, state=TaskState.PENDING, on="")]
    assert decide(waiting, [make.node("n1"), make.node("n2")], placed)[0].node_id == "n2"


def test_ended_and_unwanted_tasks_do_not_count() -> None:
    service = make.service()
    over = [
        make.task(service, 1, on="n1", state=TaskState.FAILED),
        make.task(service, 2, on="n1", desired=TaskState.SHUTDOWN),
    ]
    running = [make.task(service, 3, on="n2")]
    waiting = [make.task(service, 4, state=TaskState.PENDING, on="")]
    assert decide(waiting, [make.node("n1"), make.node("n2")], over + running)[0].node_id == "n1"


@pytest.mark.parametrize(
    ("nodes", "arguments", "reason"),
    [
        ([], {}, "no suitable node"),
        ([make.node("a", state=NodeState.DOWN)], {}, "no suitable node (1 node not available for new tasks)"),
        ([make.node("a", availability="pause"), make.node("b", availability="drain")], {},
         "no suitable node (2 nodes not available for new tasks)"),
        ([make.node("a", memory=100), make.node("b", state=NodeState.UNKNOWN)], {"memory": 200},
         "no suitable node (1 node not available for new tasks; insufficient resources on 1 node)"),
        ([make.node("a"), make.node("b")], {"constraints": ["node.role == manager"]},
         "no suitable node (scheduling constraints not satisfied on 2 nodes)"),
    ],
)  # fmt: skip
def test_the_reason_counts_nodes_by_what_they_lack(nodes: list, arguments: dict, reason: str) -> None:  # type: ignore[type-arg]
    decision = decide(pending(1, **arguments), nodes, [])[0]
    assert (decision.node_id, decision.reason) == ("", reason)


def test_reservations_are_never_over_promised() -> None:
    nodes = [make.node("a", cpus=2), make.node("b", cpus=3)]
    decisions = decide(pending(7, cpus=1), nodes, [])
    placed = Counter(decision.node_id for decision in decisions)
    assert (placed["a"], placed["b"], placed[""]) == (2, 3, 2)
    assert decisions[-1].reason == "no suitable node (insufficient resources on 2 nodes)"


def test_reservations_of_running_tasks_count() -> None:
    service = make.service(task=make.template(cpus=3))
    running = [make.task(service, 1, on="a")]
    assert decide(pending(1, cpus=2), [make.node("a", cpus=4)], running)[0].node_id == ""


def test_a_preassigned_task_stays_on_its_node() -> None:
    service = make.service()
    waiting = [make.task(service, 0, state=TaskState.PENDING, on="b")]
    nodes = [make.node("a"), make.node("b")]
    assert decide(waiting, nodes, [make.task(service, 0, on="b")])[0].node_id == "b"
    assert decide(waiting, [make.node("a")], [])[0].node_id == ""


@pytest.mark.parametrize(
    ("expression", "met"),
    [
        ("node.id == n1", True),
        ("node.id!=n1", False),
        ("node.hostname == HOST-N1", True),
        ("node.role == worker", True),
        ("node.role != worker", False),
        ("node.labels.zone == a", True),
        ("node.labels.zone != a", False),
        ("node.labels.none != a", True),
        ("engine.labels.disk == ssd", True),
        ("node.wonder == a", False),
        ("node.wonder != a", False),
    ],
)
def test_constraints(expression: str, met: bool) -> None:
    node = make.node("n1", labels={"zone": "A"})
    description = NodeDescription(hostname="host-n1", engine=EngineDescription(labels={"disk": "ssd"}))
    node = type(node)(**{**{name: getattr(node, name) for name in node.__struct_fields__}, "description": description})
    assert constraints.satisfied(constraints.parse([expression]), node) is met


@pytest.mark.parametrize(
    "expression", ["node.role", "node.role = a", " == a", "node.role == ", "node role == a", "node.id == é"]
)
def test_malformed_constraints_are_named(expression: str) -> None:
    with pytest.raises(InvalidArgument):
        constraints.parse([expression])
