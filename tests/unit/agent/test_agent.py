"""The agent against a scripted dispatcher over real gRPC with mutual TLS."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from api import errors
from api.errors import Forbidden, NotFound, Unavailable
from api.rpc.client import call
from api.rpc.swarm_methods import DISPATCHER_HEARTBEAT
from api.types.dispatch import HeartbeatRequest, ManagerPeer, SessionMessage
from api.types.objects import NodeDescription, Task, TaskState, TaskStatus
from base.clock import SystemClock
from ca.certificates import join_leaf
from ca.tls import channel
from ca.tokens import parse_token
from tests.unit.agent.dispatcher import Dispatcher
from tests.unit.ca.swarm import Manager, new_identity
from tests.unit.exec.engine import FakeEngine
from worker.agent.agent import Agent
from worker.agent.storage import AgentStorage
from worker.exec.step import Phase

S = TaskState


def task(task_id: str, desired: TaskState = S.RUNNING) -> Task:
    status = TaskStatus(state=S.ASSIGNED)
    return Task(id=task_id, service_name="web", slot=1, desired_state=desired, status=status)


@asynccontextmanager
async def node(
    manager: Manager, seeds: list[str], directory: Path, engine: FakeEngine, heard: Callable[[SessionMessage], None]
) -> AsyncIterator[Agent]:
    identity = new_identity(manager.cluster(), "worker", "node1")
    agent = Agent(
        node_id="node1",
        description=lambda: NodeDescription(hostname="host1"),
        managers=seeds,
        connect=lambda addr: channel(addr, identity, identity.root_pem),
        engine=engine,
        directory=directory,
        clock=SystemClock(),
        rng=random.Random(3),
        heard=heard,
    )
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        work = group.create_task(agent.run(ready))
        await ready.wait()
        try:
            yield agent
        finally:
            work.cancel()


class World:
    """One manager, one node; the node can be taken away and brought back."""

    def __init__(self, directory: Path) -> None:
        self.manager, self.dispatcher, self.engine = Manager(), Dispatcher(), FakeEngine()
        self.directory = directory
        self.heard: list[SessionMessage] = []

    @asynccontextmanager
    async def up(self, seeds: list[str] | None = None) -> AsyncIterator[Agent]:
        async with node(
            self.manager, seeds or [self.manager.addr], self.directory, self.engine, self.heard.append
        ) as agent:
            yield agent


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with world.manager.serving(world.dispatcher.handlers()):
        yield world


async def test_a_session_names_the_node_by_its_certificate_and_beats(world: World) -> None:
    world.dispatcher.managers = [ManagerPeer(node_id="m1", addr=world.manager.addr)]
    async with world.up() as agent:
        await world.dispatcher.until(lambda: len(world.dispatcher.heartbeats) >= 3)
        assert agent.connected
        assert world.dispatcher.peers == {"node1"}
        assert world.dispatcher.description == NodeDescription(hostname="host1")
        assert agent.managers == world.dispatcher.managers
        assert world.dispatcher.heartbeats[-1] == world.dispatcher.index
        assert world.heard[0].role == "worker"


async def test_tasks_live_and_die_as_assigned(world: World) -> None:
    world.dispatcher.tasks = {"t1": task("t1")}
    async with world.up() as agent:
        await world.dispatcher.task_is("t1", S.RUNNING)
        world.dispatcher.assign(task("t2"))
        await world.dispatcher.task_is("t2", S.RUNNING)
        world.dispatcher.assign(task("t1", S.SHUTDOWN))
        await world.dispatcher.task_is("t1", S.SHUTDOWN)
        world.engine.exit("t2", 1)
        assert (await world.dispatcher.task_is("t2", S.FAILED)).err == "task: non-zero exit (1)"
        world.dispatcher.unassign("t1", "t2")
        async with asyncio.timeout(5):
            while agent.statuses():
                await asyncio.sleep(0.01)
    assert world.engine.boxes == {}
    sent = [status.state for task_id, status in world.dispatcher.reports if task_id == "t1"]
    assert sent == sorted(sent), "statuses arrive in order"


async def test_a_restarted_agent_adopts_and_tells_what_happened_meanwhile(world: World) -> None:
    world.dispatcher.tasks = {"t1": task("t1"), "t2": task("t2")}
    async with world.up():
        await world.dispatcher.task_is("t1", S.RUNNING)
        await world.dispatcher.task_is("t2", S.RUNNING)
    assert {box.phase for box in world.engine.boxes.values()} == {Phase.RUNNING}, "containers run on"
    world.engine.exit("t1", 0)
    async with world.up() as agent:
        await world.dispatcher.task_is("t1", S.COMPLETE)
        assert agent.statuses()["t2"].state is S.RUNNING
    assert world.engine.made == 2
    assert [call for call in world.engine.calls if call[0] in ("stop", "remove")] == []


async def test_cut_off_tasks_run_on_and_the_next_session_reconciles(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.dispatcher.tasks = {"t1": task("t1"), "t2": task("t2")}
    async with world.manager.serving(world.dispatcher.handlers()) as addr:
        port = int(addr.rpartition(":")[2])
        agent_up = world.up()
        agent = await agent_up.__aenter__()
        await world.dispatcher.task_is("t1", S.RUNNING)
        await world.dispatcher.task_is("t2", S.RUNNING)
    async with asyncio.timeout(5):
        while agent.connected:
            await asyncio.sleep(0.01)
    world.engine.exit("t1", 3)
    async with asyncio.timeout(5):
        while agent.statuses()["t1"].state is not S.FAILED:
            await asyncio.sleep(0.01)
    assert world.engine.boxes["t2"].phase is Phase.RUNNING
    del world.dispatcher.tasks["t2"]
    world.dispatcher.index += 1
    async with world.manager.serving(world.dispatcher.handlers(), port):
        await world.dispatcher.task_is("t1", S.FAILED)
        async with asyncio.timeout(5):
            while "t2" in agent.statuses():
                await asyncio.sleep(0.01)
        await agent_up.__aexit__(None, None, None)
    assert list(world.engine.boxes) == ["t1"]


async def test_a_report_that_fails_is_told_to_the_next_session(world: World) -> None:
    world.dispatcher.update_errors = [Unavailable("no longer the leader")]
    world.dispatcher.tasks = {"t1": task("t1")}
    async with world.up():
        await world.dispatcher.task_is("t1", S.RUNNING)
    assert len(world.dispatcher.sessions) == 2


async def test_an_unacknowledged_status_survives_a_restart(world: World) -> None:
    world.dispatcher.tasks = {"t1": task("t1")}
    async with world.up():
        await world.dispatcher.task_is("t1", S.RUNNING)
    storage = AgentStorage(world.directory)
    await storage.open()
    item = (await storage.tasks())["t1"]
    failed = replace(item.status, state=S.FAILED, err="told to nobody")
    await storage.save([replace(item, status=failed, reported=False)])
    await storage.close()
    async with world.up():
        assert (await world.dispatcher.task_is("t1", S.FAILED)).err == "told to nobody"


async def test_a_follower_that_names_the_leader_is_followed(world: World) -> None:
    follower, asleep = Manager(), Dispatcher()
    follower.tls = world.manager.tls
    asleep.refusal = Unavailable(f"this manager is not the leader; the leader is {world.manager.addr}")
    async with follower.serving(asleep.handlers()) as addr, world.up([addr]) as agent:
        await world.dispatcher.until(lambda: world.dispatcher.heartbeats)
        assert agent.connected
    assert asleep.sessions == []


async def test_when_the_manager_ends_the_session_another_begins(world: World) -> None:
    async with world.up():
        await world.dispatcher.until(lambda: len(world.dispatcher.sessions) == 1)
        world.dispatcher.end_session(NotFound("invalid session"))
        await world.dispatcher.until(lambda: len(world.dispatcher.sessions) == 2)


async def test_a_node_that_was_removed_stops_its_tasks(world: World) -> None:
    world.dispatcher.tasks = {"t1": task("t1"), "t2": task("t2")}
    async with world.up() as agent:
        for each in ("t1", "t2"):
            await world.dispatcher.task_is(each, S.RUNNING)
        world.dispatcher.refusal = errors.Forbidden("no certificate of this swarm")
        world.dispatcher.end_session(errors.Forbidden("not now"))
        await asyncio.sleep(0.1)
        assert len(world.engine.boxes) == 2, "a refusal is not a removal"
        world.dispatcher.refusal = errors.Forbidden("node node1 was removed from the swarm")
        async with asyncio.timeout(5):
            while agent.statuses() or world.engine.boxes:
                await asyncio.sleep(0.01)


async def test_a_gap_in_the_assignments_ends_the_session(world: World) -> None:
    async with world.up():
        await world.dispatcher.until(lambda: world.dispatcher.heartbeats)
        world.dispatcher.skip_sequence = True
        world.dispatcher.assign(task("t1"))
        await world.dispatcher.until(lambda: len(world.dispatcher.sessions) == 2)
        await world.dispatcher.task_is("t1", S.RUNNING)


async def test_reconnect_begins_a_new_session_at_once(world: World) -> None:
    async with world.up() as agent:
        await world.dispatcher.until(lambda: world.dispatcher.heartbeats)
        agent.reconnect()
        await world.dispatcher.until(lambda: len(world.dispatcher.sessions) == 2)


async def test_managers_are_remembered_when_the_seed_is_gone(world: World) -> None:
    world.dispatcher.managers = [ManagerPeer(node_id="m1", addr=world.manager.addr)]
    async with world.up() as agent:
        await world.dispatcher.until(lambda: world.dispatcher.heartbeats)
        async with asyncio.timeout(5):
            while not await agent._storage.managers():
                await asyncio.sleep(0.01)
    async with world.up(["127.0.0.1:1"]):
        await world.dispatcher.until(lambda: len(world.dispatcher.sessions) == 2)


async def test_a_manager_that_lags_behind_does_not_take_tasks_away(world: World) -> None:
    world.dispatcher.tasks = {"t1": task("t1")}
    async with world.up() as agent:
        await world.dispatcher.task_is("t1", S.RUNNING)
        world.dispatcher.index -= 5
        tasks, world.dispatcher.tasks = world.dispatcher.tasks, {}
        world.dispatcher.end_session(NotFound("invalid session"))
        await world.dispatcher.until(lambda: len(world.dispatcher.sessions) >= 3)
        assert agent.statuses()["t1"].state is S.RUNNING
        world.dispatcher.tasks = tasks
        world.dispatcher.index += 5
        count = len(world.dispatcher.heartbeats)
        await world.dispatcher.until(lambda: len(world.dispatcher.heartbeats) > count + 2)
    assert world.engine.boxes["t1"].phase is Phase.RUNNING


async def test_a_joiner_is_no_node_yet(world: World) -> None:
    token = parse_token(world.manager.cluster().join_tokens.manager)
    leaf = join_leaf(token.secret, token.digest, "manager", SystemClock().now_ns())
    connection = channel(world.manager.addr, leaf, world.manager.identity.root_pem)
    try:
        with pytest.raises(Forbidden, match="not open to swarm-join-manager"):
            await call(connection, DISPATCHER_HEARTBEAT, HeartbeatRequest(session_id="x"), timeout=5)
    finally:
        await connection.close(None)
    assert world.dispatcher.sessions == []
