"""What must not grow with the size of the swarm: who wakes for a change, and what a plan costs."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from api.types.objects import NetworkAttachment, NodeState, NodeStatus, Task, TaskState, TaskStatus
from manager.dispatcher.draining import Progress
from manager.dispatcher.service import concerned
from manager.dispatcher.signals import Signal, Signals
from manager.orchestrator.loop import task_matters
from manager.orchestrator.plan import plan_service
from manager.store.memory import Change
from tests.unit.manager import make

S = TaskState


def moved(old: Task | None, new: Task | None) -> Change:
    task = new or old
    assert task is not None
    return Change(7, "tasks", task.id, old, new)


async def test_a_change_wakes_the_streams_of_its_nodes_alone() -> None:
    signals = Signals()
    with signals.open("a") as a, signals.open("a") as another, signals.open("b") as b:
        signals.wake(["a", "gone"])
        assert (a.due, another.due, b.due) == (True, True, False)
        await a.wait()
        assert a.take()
        assert not a.take()
        await b.wait(0.001)
        assert not b.due, "the time was up"
        waiting = asyncio.gather(b.wait())
        signals.wake_all()
        await waiting
        assert b.take()
    signals.wake_all()
    assert not signals._by_node, "streams that ended are forgotten"


def test_a_task_concerns_its_node_before_and_after_and_a_node_itself() -> None:
    service = make.service()
    task = make.task(service, 1, on="n1")
    elsewhere = msgspec.structs.replace(task, node_id="n2")
    unplaced = msgspec.structs.replace(task, node_id="")
    changed = Change(8, "nodes", "n3", make.node("n3"), make.node("n3"))
    assert concerned([moved(task, elsewhere), changed]) == {"n1", "n2", "n3"}
    assert concerned([moved(None, unplaced)]) == set()
    assert concerned([moved(unplaced, task), moved(elsewhere, None)]) == {"n1", "n2"}


def test_a_stream_with_nothing_to_hear_has_heard_everything() -> None:
    signal = Signal()
    progress = Progress(signal, looked=3)
    assert progress.has(9)
    progress.sent = 5
    assert not progress.has(9), "the node has not confirmed what it was sent"
    progress.acknowledged = 5
    assert progress.has(9)
    signal.wake()
    assert not progress.has(9)
    assert progress.has(3)


@pytest.mark.parametrize(
    ("before", "after", "matters"),
    [
        (S.ASSIGNED, S.PREPARING, False),
        (S.STARTING, S.RUNNING, False),
        (S.RUNNING, S.FAILED, True),
        (S.RUNNING, S.SHUTDOWN, True),
        (S.PENDING, S.ORPHANED, True),
    ],
)
def test_tasks_that_get_on_change_no_plan(before: TaskState, after: TaskState, matters: bool) -> None:
    service = make.service(2)
    old = make.task(service, 1, state=before)
    new = msgspec.structs.replace(old, status=TaskStatus(state=after))
    assert task_matters(moved(old, new)) is matters
    if not matters:
        other = make.task(service, 2)
        plans = [plan_service(make.context(service, make.node("n1")), [each, other]) for each in (old, new)]
        assert plans[0].groups == plans[1].groups == []
    assert task_matters(moved(None, old))
    assert task_matters(moved(old, None))
    assert task_matters(moved(old, msgspec.structs.replace(old, desired_state=S.SHUTDOWN)))
    assert task_matters(moved(old, msgspec.structs.replace(old, node_id="n9")))


@given(
    placed=some.lists(some.tuples(some.sampled_from(["n1", "n2", "n3"]), some.booleans()), max_size=12),
    wanted=some.integers(0, 12),
)
def test_scaling_down_takes_one_after_the_other_by_the_same_rule(placed: list[tuple[str, bool]], wanted: int) -> None:
    """The plan makes one heap of it; this is the rule, taken word by word."""
    service = make.service(wanted)
    tasks = [
        make.task(service, number, on=node, state=S.RUNNING if runs else S.PREPARING)
        for number, (node, runs) in enumerate(placed, 1)
    ]
    left, gone = list(tasks), []
    while len(left) > wanted:
        held = {task.node_id: sum(other.node_id == task.node_id and runs(other) for other in left) for task in left}
        worst = max(left, key=lambda task: (not runs(task), held[task.node_id] if runs(task) else 0, task.slot))
        left.remove(worst)
        gone.append(worst.id)
    nodes = [make.node(name) for name in ("n1", "n2", "n3")]
    groups = plan_service(make.context(service, *nodes), tasks).groups
    assert [group[0].id for group in groups if group[0].desired_state is S.REMOVE] == gone


def runs(task: Task) -> bool:
    return task.status.state is S.RUNNING


def test_a_node_that_gets_on_concerns_nobody_else_unless_it_has_a_gate() -> None:
    from manager.dispatcher.networks import NetworkTruth
    from tests.unit.manager.test_store import new_store

    store, _ = new_store()
    truth = NetworkTruth()
    truth.refresh(store.view(), None)
    version = truth.version
    plain = make.node("n1")
    here = msgspec.structs.replace(plain, status=NodeStatus(state=NodeState.READY, addr="192.168.0.9"))
    truth.refresh(store.view(), [Change(1, "nodes", "n1", plain, here)])
    assert truth.version == version
    gate = NetworkAttachment(network_id="ingress", addresses=["10.255.0.2/16"])
    truth.refresh(store.view(), [Change(2, "nodes", "n1", here, msgspec.structs.replace(here, attachments=[gate]))])
    assert truth.version > version
