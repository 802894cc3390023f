"""Moving tasks to nodes that come or come back: how many, how fast, never two at once, whoever is lost meanwhile."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from api.errors import InvalidArgument
from api.types.objects import Cluster, NodeState, Service, Task, TaskState, UpdateStatus
from api.types.swarm import SwarmSpec
from base.clock import NS
from manager.controlapi.validate import service_spec, swarm_spec
from manager.labels import REBALANCE
from manager.orchestrator import balance
from manager.orchestrator.rebalancer import preview
from tests.unit.manager import make
from tests.unit.manager.model import Model
from tests.unit.manager.test_convergence import labelled, service


def spread(model: Model, name: str = "web") -> list[int]:
    """Containers of the service, node by node."""
    view = model.store.view()
    counts = Counter(
        node for node, ids in model.running.items() for task_id in ids
        if (task := view.get(Task, task_id)) is not None and task.service_id == name
    )  # fmt: skip
    return [counts[f"n{number}"] for number in range(3)]


async def uneven(model: Model, moves: str = "60", replicas: int = 6) -> None:
    """Six tasks on two of three nodes; the third has just come back."""
    await model.begin(3)
    await model.set_node("n2", state=NodeState.DOWN)
    await model.put_service(labelled(service("web", replicas), moves) if moves else service("web", replicas))
    await model.settle(12)
    await model.set_node("n2", state=NodeState.READY)


async def test_tasks_move_to_a_node_that_has_come_back() -> None:
    model = Model()
    await uneven(model)
    assert spread(model) == [3, 3, 0]
    before = {task.id for task in model.store.view().all(Task)}
    least = 6
    for _ in range(60):
        await model.settle(1)
        least = min(least, sum(spread(model)))
    assert spread(model) == [2, 2, 2]
    assert least == 5, "one at a time"
    tasks = {task.id: task for task in model.store.view().all(Task) if task.desired_state is TaskState.RUNNING}
    assert len(tasks.keys() - before) == 2, "no more moves than it takes"


@pytest.mark.parametrize("interrupted_after", range(1, 24))
async def test_a_leader_lost_after_any_step_of_a_move(interrupted_after: int) -> None:
    model = Model(interrupted_after)
    await uneven(model)
    model.proposer.left = interrupted_after
    for _ in range(60):
        await model.settle(1)
        assert sum(spread(model)) >= 5
    assert spread(model) == [2, 2, 2]
    moved = [task for task in model.store.view().all(Task) if task.moved_from]
    assert len(moved) == 2


async def test_nothing_moves_without_the_label_or_with_a_budget_of_none() -> None:
    for moves in ("", "0"):
        model = Model()
        await uneven(model, moves)
        await model.settle(40)
        assert spread(model) == [3, 3, 0]


async def test_the_budget_is_kept_by_every_leader() -> None:
    model = Model()
    await uneven(model, "1", replicas=12)
    assert spread(model) == [6, 6, 0]
    for minute in range(1, 5):
        for _ in range(15):
            model.new_leader()
            await model.settle(1, seconds=4)
        moved = [task for task in model.store.view().all(Task) if task.moved_from]
        assert abs(len(moved) - minute) <= 1
    assert spread(model) == [4, 4, 4]


async def test_the_swarms_label_counts_for_all_services_and_a_services_own_goes_before_it() -> None:
    cluster = Cluster(id="c", spec=SwarmSpec(name="default", labels={REBALANCE: "3"}))
    assert balance.budget(service("web", 1), cluster) == 3
    assert balance.budget(labelled(service("web", 1), "0"), cluster) == 0
    assert balance.budget(labelled(service("web", 1), "7"), None) == 7
    assert balance.budget(service("web", 1), None) == 0


@pytest.mark.parametrize("text", ["", "often", "-1", "1.5", "²", "9999999"])
def test_a_label_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=REBALANCE):
        service_spec(labelled(service("web", 1), text).spec)
    with pytest.raises(InvalidArgument, match=REBALANCE):
        swarm_spec(SwarmSpec(name="default", labels={REBALANCE: text}))


async def test_services_of_one_task_are_spread_by_all_tasks_and_come_to_rest() -> None:
    model = Model()
    await model.begin(2)
    await model.set_node("n1", state=NodeState.DOWN)
    for number in range(6):
        await model.put_service(labelled(service(f"s{number}", 1), "60"))
    await model.settle(12)
    await model.set_node("n1", state=NodeState.READY)
    await model.settle(60)
    assert [len(model.running[node]) for node in ("n0", "n1")] == [3, 3]
    resting = {task.id for task in model.store.view().all(Task)}
    await model.settle(60)
    assert {task.id for task in model.store.view().all(Task)} == resting


async def test_the_dry_run_lists_the_moves_of_services_that_are_off_too() -> None:
    model = Model()
    await uneven(model, "")
    found = preview(model.store.view(), model.clock.now_ns())
    assert [(each.service.id, each.moves_a_minute, len(each.moves)) for each in found] == [("web", 0, 2)]
    assert [(move.source, move.target) for move in found[0].moves] == [("n0", "n2"), ("n1", "n2")]
    assert spread(model) == [3, 3, 0]


def running(slot: int, node: str, **more: object) -> Task:
    status = make.TaskStatus(state=TaskState.RUNNING)
    return Task(id=f"t{slot}", service_id="svc", slot=slot, node_id=node, status=status, spec=make.template(), **more)  # type: ignore[arg-type]


def moves(tasks: list[Task], nodes: list[make.Node], of: Service | None = None, now: int = 0) -> str:
    move = balance.next_move(of or make.service(len(tasks)), tasks, {node.id: node for node in nodes}, now)
    return f"{move.source} > {move.target}" if move is not None else ""


def test_where_nothing_can_move() -> None:
    three = [running(slot, "a") for slot in (1, 2, 3)]
    a, b = make.node("a"), make.node("b")
    assert moves(three, [a, b]) == "a > b"
    assert moves(three, [a, make.node("b", availability="pause")]) == ""
    assert moves(three, [a, make.node("b", state=NodeState.DOWN)]) == ""
    assert moves([*three[:2], running(3, "b")], [a, b]) == "", "a gap of one only changes sides"
    assert moves(three[:2], [a, b], make.service(3)) == "", "a slot is missing"
    starting = msgspec.structs.replace(three[2], status=make.TaskStatus(state=TaskState.STARTING))
    assert moves([*three[:2], starting], [a, b]) == ""
    failed = msgspec.structs.replace(
        running(1, "b"), id="old", desired_state=TaskState.SHUTDOWN,
        status=make.TaskStatus(state=TaskState.FAILED, timestamp=10 * NS),
    )  # fmt: skip
    assert moves([failed, *three], [a, b], make.service(3), 20 * NS) == "", "it failed there a moment ago"
    assert moves([failed, *three], [a, b], make.service(3), 400 * NS) == "a > b"


def test_updates_go_first() -> None:
    three = [running(slot, "a") for slot in (1, 2, 3)]
    nodes = [make.node("a"), make.node("b")]
    for state, expected in (("updating", ""), ("paused", ""), ("completed", "a > b")):
        of = make.service(3, update_status=UpdateStatus(state=state))
        assert moves(three, nodes, of) == expected
    changed = make.service(3, task=make.template("busybox:2"), version=2)
    assert moves(three, nodes, changed) == "", "an update is about to begin"


def test_a_node_without_room_or_that_the_constraints_exclude_is_no_place() -> None:
    three = [running(slot, "a") for slot in (1, 2, 3)]
    large = make.template(memory=2**30)
    reserved = [msgspec.structs.replace(task, spec=large) for task in three]
    of = make.service(3, task=large)
    assert moves(reserved, [make.node("a"), make.node("b", memory=2**29)], of) == ""
    assert moves(reserved, [make.node("a"), make.node("b", memory=2**30)], of) == "a > b"
    zoned = make.template(constraints=["node.labels.zone == x"])
    of, tasks = make.service(3, task=zoned), [msgspec.structs.replace(task, spec=zoned) for task in three]
    assert moves(tasks, [make.node("a", labels={"zone": "x"}), make.node("b")], of) == ""
    assert moves(tasks, [make.node("a", labels={"zone": "x"}), make.node("b", labels={"zone": "x"})], of) == "a > b"
