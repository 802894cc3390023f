"""The dispatcher: differences of assignments, liveness, statuses, and sessions as a node sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from api import errors
from api.rpc.server import Peer
from api.types.dispatch import (
    AssignmentsMessage,
    AssignmentsRequest,
    HeartbeatRequest,
    SessionRequest,
    TaskStatusUpdate,
    UpdateTaskStatusRequest,
)
from api.types.objects import Node, NodeDescription, NodeState, Task, TaskState, TaskStatus
from base.supervise import TaskOwner
from manager.dispatcher.assignments import difference, same_order, wanted
from manager.dispatcher.liveness import Liveness
from manager.dispatcher.service import Dispatcher, host_of
from manager.dispatcher.statuses import merged
from manager.store.store import Store
from manager.store.transitions import Component
from tests.unit.manager import make
from tests.unit.manager.test_store import new_store

replace = msgspec.structs.replace
S = TaskState


# --- pure parts --------------------------------------------------------------------------------------------------


def test_the_difference_leads_from_what_was_sent_to_what_is_wanted() -> None:
    service = make.service()
    stays, changes, goes, comes = (make.task(service, slot) for slot in range(1, 5))
    sent = wanted([stays, changes, goes])
    ended = replace(changes, desired_state=S.SHUTDOWN)
    now = wanted([stays, ended, comes])
    update, remove = difference(sent, now)
    assert (update, remove) == ([ended, comes], [goes.id])
    for task in update:
        sent[task.id] = task
    for task_id in remove:
        del sent[task_id]
    assert sent == now


def test_a_nodes_own_report_is_not_sent_back() -> None:
    task = make.task(make.service())
    reported = replace(task, status=TaskStatus(state=S.FAILED), meta=replace(task.meta, version=99))
    assert same_order(task, reported)
    assert difference(wanted([task]), wanted([reported])) == ([], [])


def test_tasks_without_a_node_are_not_sent_and_ended_ones_are() -> None:
    service = make.service()
    waiting = make.task(service, 1, state=S.PENDING)
    over = make.task(service, 2, state=S.FAILED, desired=S.SHUTDOWN)
    assert list(wanted([waiting, over])) == [over.id]


def test_three_missed_heartbeats_are_too_many() -> None:
    liveness = Liveness()
    liveness.heard("a", now=100, period_s=5)
    assert liveness.overdue(["a", "new"], 114.9, 5) == []
    assert liveness.overdue(["a", "new"], 115, 5) == ["a"]
    liveness.forget("a")
    now = 115.0
    while (now := now + 0.5) < 129.9:
        assert liveness.overdue(["new"], now, 5) == []
    assert liveness.overdue(["new"], 129.9, 5) == ["new"], "one never heard of gets one full grace"


def test_a_manager_that_was_away_blames_nobody_for_it() -> None:
    liveness = Liveness()
    assert liveness.overdue([], 100, 5) == []
    liveness.heard("a", now=100, period_s=5)
    assert liveness.overdue(["a"], 160, 5) == []
    assert liveness.overdue(["a"], 161, 5) == []
    now = 161.0
    while (now := now + 0.5) < 175:
        assert liveness.overdue(["a"], now, 5) == []
    assert liveness.overdue(["a"], 175, 5) == ["a"], "its own silence counts, before and after"


@pytest.mark.parametrize(
    ("before", "report", "kept"),
    [
        (S.ASSIGNED, S.ACCEPTED, True),
        (S.ASSIGNED, S.RUNNING, True),
        (S.RUNNING, S.FAILED, True),
        (S.RUNNING, S.STARTING, False),
        (S.FAILED, S.RUNNING, False),
        (S.FAILED, S.SHUTDOWN, False),
        (S.PENDING, S.RUNNING, False),
        (S.ORPHANED, S.RUNNING, False),
        (S.RUNNING, S.ORPHANED, False),
        (S.RUNNING, S.REMOVE, False),
    ],
)
def test_reports_only_move_a_task_forward(before: TaskState, report: TaskState, kept: bool) -> None:
    task = make.task(make.service(), state=before)
    assert (merged(task, TaskStatus(state=report)) is not None) is kept


def test_the_same_report_twice_changes_nothing() -> None:
    task = make.task(make.service())
    new = merged(task, TaskStatus(state=S.RUNNING, container_id="c"))
    assert new is not None
    assert merged(new, new.status) is None


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.2:41234", "10.0.0.2"),
        ("ipv6:[fd00::1]:5", "fd00::1"),
        ("ipv6:%5Bfd00::1%5D:5", "fd00::1"),
        ("unix:", ""),
    ],
)
def test_peer_addresses(peer: str, host: str) -> None:
    assert host_of(peer) == host


# --- sessions ----------------------------------------------------------------------------------------------------


class Bench:
    """A dispatcher that serves over a memory store, and what a node does with it."""

    def __init__(self, store: Store, dispatcher: Dispatcher, owner: TaskOwner) -> None:
        self.store, self.dispatcher, self.owner = store, dispatcher, owner

    def peer(self, node_id: str) -> Peer:
        return Peer(node_id, "swarm-worker", "swarm", "ipv4:10.0.0.9:1")

    def session(self, node_id: str) -> Any:
        request = SessionRequest(description=NodeDescription(hostname=node_id))
        return aclosing(self.dispatcher.session(request, self.peer(node_id)))  # type: ignore[type-var]

    def assignments(self, node_id: str, session_id: str) -> Any:
        request = AssignmentsRequest(session_id=session_id)
        return aclosing(self.dispatcher.assignments(request, self.peer(node_id)))  # type: ignore[type-var]

    async def report(self, node_id: str, session_id: str, task_id: str, status: TaskStatus) -> None:
        updates = [TaskStatusUpdate(task_id=task_id, status=status)]
        request = UpdateTaskStatusRequest(session_id=session_id, updates=updates)
        await self.dispatcher.update_status(request, self.peer(node_id))

    async def write(self, *tasks: Task, by: Component = Component.ORCHESTRATOR) -> list[Task]:
        await self.store.update(by, lambda batch: [batch.put(task) for task in tasks])
        return [found for task in tasks if (found := self.store.view().get(Task, task.id)) is not None]

    async def assigned(self, task_id: str, node_id: str) -> Task:
        (new,) = await self.write(Task(id=task_id, service_id="svc", slot=1))
        (pending,) = await self.write(replace(new, status=replace(new.status, state=S.PENDING)), by=Component.ALLOCATOR)
        status = replace(pending.status, state=S.ASSIGNED)
        (done,) = await self.write(replace(pending, node_id=node_id, status=status), by=Component.SCHEDULER)
        return done

    def state(self, node_id: str) -> NodeState:
        node = self.store.view().get(Node, node_id)
        assert node is not None
        return node.status.state


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    store, _ = new_store()
    nodes = [Node(id="n1"), Node(id="n2")]
    await store.update(Component.MANAGER, lambda batch: [batch.put(node) for node in nodes])
    dispatcher = Dispatcher(store, lambda: errors.Unavailable("the leader is at 10.0.0.1:2377"))
    owner = TaskOwner("bench")
    owner.spawn(dispatcher.run(), name="dispatcher")
    await asyncio.sleep(0)
    yield Bench(store, dispatcher, owner)
    await owner.close()


async def first(stream: Any) -> Any:
    return await asyncio.wait_for(anext(stream), 5)


async def rest(stream: Any) -> None:
    """Read on until the stream ends or fails."""
    async with asyncio.timeout(5):
        async for _ in stream:
            pass


async def test_a_session_makes_the_node_ready(bench: Bench) -> None:
    async with bench.session("n1") as stream:
        message = await first(stream)
        assert message.session_id
        assert message.heartbeat_period_ns == 5_000_000_000
        node = bench.store.view().get(Node, "n1")
        assert node is not None
        assert (node.status.state, node.status.addr) == (NodeState.READY, "10.0.0.9")
        assert node.description == NodeDescription(hostname="n1")


async def test_a_stranger_gets_no_session(bench: Bench) -> None:
    async with bench.session("stranger") as stream:
        with pytest.raises(errors.Forbidden, match="not part of the swarm"):
            await first(stream)


async def test_a_newer_session_ends_the_older_one(bench: Bench) -> None:
    async with bench.session("n1") as old, bench.session("n1") as new:
        old_id, new_id = (await first(old)).session_id, (await first(new)).session_id
        with pytest.raises(errors.NotFound, match="invalid session"):
            await first(old)
        with pytest.raises(errors.NotFound):
            await bench.dispatcher.heartbeat(HeartbeatRequest(session_id=old_id), bench.peer("n1"))
        with pytest.raises(errors.NotFound):
            await bench.dispatcher.heartbeat(HeartbeatRequest(session_id=new_id), bench.peer("n2"))
        await bench.dispatcher.heartbeat(HeartbeatRequest(session_id=new_id), bench.peer("n1"))


async def test_assignments_are_complete_first_then_gap_free(bench: Bench) -> None:
    task = await bench.assigned("t1", "n1")
    await bench.assigned("t2", "n2")
    async with bench.session("n1") as session:
        session_id = (await first(session)).session_id
        async with bench.assignments("n1", session_id) as stream:
            complete: AssignmentsMessage = await first(stream)
            assert (complete.complete, complete.sequence) == (True, 0)
            assert complete.update_tasks == [task]
            assert complete.index == bench.store.view().index
            await bench.report("n1", session_id, "t1", TaskStatus(state=S.RUNNING))
            running = bench.store.view().get(Task, "t1")
            assert running is not None
            assert running.status.state is S.RUNNING
            await bench.write(replace(running, desired_state=S.SHUTDOWN))
            change = await first(stream)
            assert (change.complete, change.sequence) == (False, 1)
            assert [(each.id, each.desired_state) for each in change.update_tasks] == [("t1", S.SHUTDOWN)]
            await bench.store.update(Component.REAPER, lambda batch: batch.delete(batch.view.tasks_on_node("n1")[0]))
            assert (await first(stream)).remove_tasks == ["t1"]


async def test_a_report_on_another_nodes_task_is_dropped(bench: Bench) -> None:
    await bench.assigned("t2", "n2")
    async with bench.session("n1") as session:
        await bench.report("n1", (await first(session)).session_id, "t2", TaskStatus(state=S.FAILED))
    task = bench.store.view().get(Task, "t2")
    assert task is not None
    assert task.status.state is S.ASSIGNED


async def test_a_removed_node_loses_its_session(bench: Bench) -> None:
    async with bench.session("n1") as session:
        await first(session)
        await bench.store.update(
            Component.CONTROL_API, lambda batch: batch.delete(next(n for n in batch.view.all(Node) if n.id == "n1"))
        )
        with pytest.raises(errors.Forbidden, match="removed"):
            await rest(session)


async def test_silence_makes_a_node_down_and_ends_its_session(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.dispatcher.service.CHECK_S", 0.005)
    clock = bench.store.clock
    assert isinstance(clock, make.Clock)

    async def time_goes_by() -> None:
        while bench.state("n1") is not NodeState.DOWN:
            clock.seconds += 0.5
            await asyncio.sleep(0.01)

    async with bench.session("n1") as session:
        await first(session)
        bench.owner.spawn(time_goes_by(), name="time")
        with pytest.raises(errors.NotFound, match="heartbeats were missed"):
            await rest(session)
    assert bench.state("n1") is NodeState.DOWN


async def test_without_leadership_every_call_names_the_leader(bench: Bench) -> None:
    async with bench.session("n1") as session:
        session_id = (await first(session)).session_id
        await bench.owner.close()
        with pytest.raises(errors.Unavailable, match=r"10\.0\.0\.1:2377"):
            await first(session)
        with pytest.raises(errors.Unavailable, match=r"10\.0\.0\.1:2377"):
            await bench.dispatcher.heartbeat(HeartbeatRequest(session_id=session_id), bench.peer("n1"))
