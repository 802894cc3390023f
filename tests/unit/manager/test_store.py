"""The store: transactions, versions, indexes, watches, snapshots, and the transition table."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from api import errors
from api.types.objects import Node, Service, Task, TaskState, TaskStatus
from api.types.swarm import NodeSpec, ServiceSpec
from manager.store.memory import Memory, Rejection
from manager.store.proposer import MemoryApplied, MemoryProposer
from manager.store.store import Batch, Store
from manager.store.transitions import TRANSITIONS, Component
from tests.unit.manager.make import Clock

replace = msgspec.structs.replace


def new_store() -> tuple[Store, MemoryProposer]:
    store, proposer = Store(Clock()), MemoryProposer()
    proposer.apply = store.apply
    store.bind(proposer)
    return store, proposer


def a_service(service_id: str, name: str) -> Service:
    return Service(id=service_id, spec=ServiceSpec(name=name))


async def put(store: Store, *items: Service | Node | Task, by: Component = Component.CONTROL_API) -> None:
    def change(batch: Batch) -> None:
        for item in items:
            batch.put(item)

    await store.update(by, change)


async def test_version_is_the_index_of_the_last_change() -> None:
    store, _ = new_store()
    await put(store, a_service("a", "web"))
    await put(store, a_service("b", "db"))
    first = store.view().get(Service, "a")
    assert first is not None
    assert (first.meta.version, first.spec_version) == (1, 1)
    await put(store, replace(first, spec=replace(first.spec, labels={"x": "y"})))
    second = store.view().get(Service, "a")
    assert second is not None
    assert second.meta.version == 3
    assert second.spec_version == 1, "labels of the service make no task out of date"
    assert second.meta.created_at == first.meta.created_at < second.meta.updated_at


async def test_update_of_an_old_version_is_refused_whole() -> None:
    store, _ = new_store()
    await put(store, a_service("a", "web"))
    old = store.view().get(Service, "a")
    assert old is not None
    await put(store, replace(old, update_status=None, registry_auth="1"))
    with pytest.raises(errors.OutOfSequence, match="update out of sequence"):
        await put(store, a_service("b", "db"), replace(old, registry_auth="2"))
    assert store.view().get(Service, "b") is None
    current = store.view().get(Service, "a")
    assert current is not None
    assert current.registry_auth == "1"


async def test_creating_what_exists_is_refused() -> None:
    store, _ = new_store()
    await put(store, a_service("a", "web"))
    with pytest.raises(errors.OutOfSequence):
        await put(store, a_service("a", "other"))


async def test_service_names_are_unique_without_case() -> None:
    store, _ = new_store()
    await put(store, a_service("a", "web"))
    with pytest.raises(errors.Conflict, match="name conflicts"):
        await put(store, a_service("b", "WEB"))
    with pytest.raises(errors.Conflict):
        await put(store, a_service("c", "x"), a_service("d", "X"))
    await store.update(Component.CONTROL_API, lambda batch: batch.delete(batch.view.all(Service)[0]))
    await put(store, a_service("b", "web"))


async def test_apply_is_a_function_of_the_log() -> None:
    store, proposer = new_store()
    await put(store, a_service("a", "web"), Node(id="n", spec=NodeSpec(role="worker")))
    with pytest.raises(errors.Conflict):
        await put(store, a_service("b", "web"))
    await store.update(Component.CONTROL_API, lambda batch: batch.delete(batch.view.all(Node)[0]))
    other = Memory()
    outcomes = [other.apply(index, data) for index, data in enumerate(proposer.log, 1)]
    assert isinstance(outcomes[1], Rejection)
    assert other.snapshot() == store.snapshot()


async def test_nothing_put_nothing_proposed() -> None:
    store, proposer = new_store()
    assert await store.update(Component.MANAGER, lambda batch: 7) == 7
    assert proposer.log == []


async def test_snapshot_restores_objects_indexes_and_time() -> None:
    store, proposer = new_store()
    await put(store, a_service("a", "web"), Node(id="n", spec=NodeSpec(role="worker")))
    await put(store, Task(id="t", service_id="a", slot=2, node_id="n"), by=Component.ORCHESTRATOR)
    copy, copied = new_store()
    async with copy.watch(("tasks",)) as watch:
        copy.restore(proposer.index, store.snapshot())
        assert (await watch.next()).rescan
    copied.index = proposer.index
    assert copy.snapshot() == store.snapshot()
    assert [task.id for task in copy.view().tasks_of_slot("a", 2)] == ["t"]
    assert [task.id for task in copy.view().tasks_on_node("n")] == ["t"]
    assert copy.view().service_named("WEB") is not None
    with pytest.raises(errors.Conflict):
        await put(copy, a_service("b", "web"))


async def test_snapshot_with_an_unknown_table_is_refused() -> None:
    store, _ = new_store()
    body = msgspec.msgpack.encode({"index": 1, "time": 1, "tables": {"wonders": []}})
    with pytest.raises(ValueError, match="wonders"):
        store.restore(1, body)


async def test_indexes_follow_changes() -> None:
    store, _ = new_store()
    await put(store, Task(id="t", service_id="a", slot=1), by=Component.ORCHESTRATOR)
    task = store.view().get(Task, "t")
    assert task is not None
    pending = replace(task, status=replace(task.status, state=TaskState.PENDING))
    await put(store, pending, by=Component.ALLOCATOR)
    assert store.view().tasks_in_state(TaskState.NEW) == []
    assert [each.id for each in store.view().tasks_in_state(TaskState.PENDING)] == ["t"]
    await store.update(Component.REAPER, lambda batch: batch.delete(batch.view.all(Task)[0]))
    assert store.view().tasks_in_state(TaskState.PENDING) == store.view().tasks_of_service("a") == []


async def test_watch_sees_old_and_new_in_order_and_only_its_tables() -> None:
    store, _ = new_store()
    async with store.watch(("services",)) as watch:
        await put(store, a_service("a", "web"), Node(id="n"))
        service = store.view().all(Service)[0]
        await put(store, replace(service, registry_auth="x"))
        await store.update(Component.CONTROL_API, lambda batch: batch.delete(batch.view.all(Service)[0]))
        changes = (await watch.next()).changes
    assert [(change.index, change.old is None, change.new is None) for change in changes] == [
        (1, True, False),
        (2, False, False),
        (3, False, True),
    ]


async def test_slow_watcher_is_told_to_rescan() -> None:
    store, _ = new_store()
    async with store.watch(("services",), limit=2) as watch:
        for name in "abc":
            await put(store, a_service(name, name))
        batch = await watch.next()
        assert batch.rescan
        assert not batch.changes
        await put(store, a_service("d", "d"))
        assert [change.id for change in (await watch.next()).changes] == ["d"]


async def test_watch_gives_up_after_its_time() -> None:
    store, _ = new_store()
    async with store.watch(("services",)) as watch:
        assert (await watch.next(0.01)).changes == ()


async def test_a_component_moves_only_its_own_transitions() -> None:
    store, _ = new_store()
    with pytest.raises(AssertionError, match="may not create"):
        await put(store, Task(id="t"), by=Component.SCHEDULER)
    await put(store, Task(id="t", service_id="a"), by=Component.ORCHESTRATOR)
    task = store.view().all(Task)[0]
    with pytest.raises(AssertionError, match="from new to running"):
        await put(store, replace(task, status=TaskStatus(state=TaskState.RUNNING)), by=Component.ALLOCATOR)
    await put(store, replace(task, desired_state=TaskState.SHUTDOWN), by=Component.ORCHESTRATOR)
    task = store.view().all(Task)[0]
    with pytest.raises(AssertionError, match="desired state"):
        await put(store, replace(task, desired_state=TaskState.RUNNING), by=Component.ORCHESTRATOR)


def test_transitions_go_forward_and_have_one_owner() -> None:
    seen: set[tuple[TaskState, TaskState]] = set()
    for moves in TRANSITIONS.values():
        assert all(old < new for old, new in moves)
        assert not moves & seen
        seen |= moves


class HeldProposer(MemoryProposer):
    """Agrees only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()

    async def propose(self, data: bytes) -> MemoryApplied:
        await self.free.wait()
        return await super().propose(data)


async def test_a_cancelled_writer_still_keeps_its_turn() -> None:
    store, proposer = Store(Clock()), HeldProposer()
    proposer.apply = store.apply
    store.bind(proposer)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(put(store, a_service("a", "web")))
        await asyncio.sleep(0)
        first.cancel()
        second = group.create_task(store.update(Component.MANAGER, lambda batch: len(batch.view.all(Service))))
        await asyncio.sleep(0)
        assert not second.done()
        proposer.free.set()
        assert await second == 1


async def test_creation_times_order_objects_whatever_the_clock() -> None:
    clock = Clock()
    store, proposer = Store(clock), MemoryProposer()
    proposer.apply = store.apply
    store.bind(proposer)
    await put(store, a_service("a", "a"))
    clock.seconds -= 500
    await put(store, a_service("b", "b"))
    first, second = store.view().all(Service)
    assert first.meta.created_at < second.meta.created_at
