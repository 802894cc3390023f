"""Real managers and agents together: what survives a leader, a worker, a restart. Only the engines are made up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from api import errors
from api.types.objects import NodeState, TaskState
from api.types.swarm import NodeSpec, RestartPolicy
from base.clock import NS
from ca.client import renew
from manager.founding import found
from manager.manager import Manager, ManagerConfig
from tests.unit.manager.swarm import CLOCK, Swarm, free_addr, service_spec

replace = msgspec.structs.replace


async def test_a_service_through_any_manager_and_a_dead_leader(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        first, second, third = swarm.first, await swarm.add_manager("m2"), await swarm.add_manager("m3")
        nodes = await third.control().list_nodes({})
        assert [node.manager_status and node.manager_status.leader for node in nodes].count(True) == 1

        async def all_reachable() -> bool:
            nodes = await third.control().list_nodes({})
            return all(node.manager_status and node.manager_status.reachability == "reachable" for node in nodes)

        await swarm.until(all_reachable)
        await second.control().create_service(service_spec(replicas=6))
        tasks = await swarm.until_running("web", 6)
        assert {task.node_id for task in tasks} == {node.id for node in nodes}
        with pytest.raises(errors.Conflict):
            await third.control().create_service(service_spec())
        await first.kill()
        service = await third.control().get_service("web")
        changed = replace(service.spec, labels={"after": "the leader"})
        await third.control().update_service("web", changed, service.meta.version)
        with pytest.raises(errors.OutOfSequence):
            await second.control().update_service("web", changed, service.meta.version)
        await swarm.until_left(first, through=second)
        await swarm.until_running("web", 6, through=second)
        # It comes back with its log, catches up, and is told to stop what runs elsewhere now.
        await first.start_manager()
        first.start_agent()
        assert (await first.control().get_service("web")).spec.labels == {"after": "the leader"}
        await swarm.until_state(first, NodeState.READY, through=second)


async def test_no_majority_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.forward.LEADER_WAIT_S", 0.5)
    async with Swarm(tmp_path) as swarm:
        second = await swarm.add_manager("m2")
        await swarm.first.kill()
        with pytest.raises(errors.Unavailable, match="does not have a leader"):
            await second.control().list_services({})
        with pytest.raises(errors.Unavailable, match="does not have a leader"):
            await second.control().create_service(service_spec())


async def test_a_dead_workers_tasks_run_elsewhere_and_are_stopped_when_it_returns(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        worker = await swarm.add_worker("w1")
        await swarm.first.control().create_service(service_spec(replicas=4))
        tasks = await swarm.until_running("web", 4)
        assert {task.node_id for task in tasks} == {swarm.first.identity.node_id, worker.identity.node_id}
        await worker.kill()
        await swarm.until_left(worker)
        tasks = await swarm.until_running("web", 4)
        assert {task.node_id for task in tasks} == {swarm.first.identity.node_id}
        worker.start_agent()

        async def all_stopped() -> bool:
            tasks = await swarm.first.control().list_tasks({"node": [worker.identity.node_id]})
            return all(task.status.state is TaskState.SHUTDOWN for task in tasks)

        await swarm.until(all_stopped)


async def test_update_drain_scale_and_remove(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        worker, control = await swarm.add_worker("w1"), swarm.first.control()
        await control.create_service(service_spec(replicas=3))
        await swarm.until_running("web", 3)
        service = await control.get_service("web")
        await control.update_service("web", service_spec(replicas=3, env=["A=1"]), service.meta.version)

        async def completed() -> bool:
            status = (await control.get_service("web")).update_status
            return status is not None and status.state == "completed"

        await swarm.until(completed)
        tasks = await swarm.until_running("web", 3)
        assert all(task.spec.container_spec.env == ["A=1"] for task in tasks)
        node = await control.get_node("w1")
        await control.update_node("w1", NodeSpec(role="worker", availability="drain"), node.meta.version)
        await swarm.until_left(worker)
        await swarm.until_running("web", 3)
        service = await control.get_service("web")
        await control.update_service("web", service_spec(replicas=1, env=["A=1"]), service.meta.version)
        await swarm.until_running("web", 1)
        await control.remove_service("web")

        async def nothing_left() -> bool:
            return not await control.list_tasks({})

        await swarm.until(nothing_left)
        assert swarm.first.engine.boxes == worker.engine.boxes == {}


async def test_a_failing_task_is_restarted(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        control = swarm.first.control()
        spec = service_spec()
        policy = RestartPolicy(delay=NS // 10)
        await control.create_service(replace(spec, task_template=replace(spec.task_template, restart_policy=policy)))
        (task,) = await swarm.until_running("web", 1)
        swarm.first.engine.exit(task.id, 3)

        async def replaced() -> bool:
            return any(other.id != task.id for other in await swarm.running("web"))

        await swarm.until(replaced)
        failed = await control.get_task(task.id)
        assert (failed.status.state, failed.status.exit_code) == (TaskState.FAILED, 3)
        assert failed.desired_state is TaskState.SHUTDOWN


async def test_a_taken_port_is_said_and_leaves_nothing_running(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        taken = swarm.first.addr
        founding = found(swarm._spec, taken, CLOCK)
        manager = Manager(ManagerConfig(tmp_path / "x", taken, taken), founding.identity, CLOCK, founding=founding)
        (tmp_path / "x").mkdir()
        with pytest.raises(errors.Unavailable, match="can't listen on"):
            await manager.run(asyncio.Event())


@pytest.mark.parametrize("which", ["m1", "m2"])
async def test_of_two_managers_one_is_demoted_and_one_goes_on(tmp_path: Path, which: str) -> None:
    """The leader (m1) or the follower: a manager that stopped too early would take the quorum along."""
    async with Swarm(tmp_path) as swarm:
        await swarm.add_manager("m2")
        host, other = swarm.hosts[which], swarm.hosts["m2" if which == "m1" else "m1"]
        node = await other.control().get_node(which)
        heard = host.heard
        heard.clear()
        await other.control().update_node(which, replace(node.spec, role="worker"), node.meta.version)
        await swarm.until(lambda: "worker" in heard)
        # Its own manager has not heard of it, and must not be able to certify it a manager again.
        with pytest.raises(errors.Unavailable, match="is to be a worker"):
            await renew(host.addr, host.identity)
        assert (await renew(other.addr, host.identity)).role == "worker"
        await host.stop_manager()
        await swarm.until(lambda: len(other.control_raft().status().members) == 1)
        left = [node.id for node in await other.control().list_nodes({}) if node.manager_status is not None]
        assert left == [other.identity.node_id]
        await other.control().create_service(service_spec())


async def test_a_manager_leaves_and_the_others_agree(tmp_path: Path) -> None:
    async with Swarm(tmp_path) as swarm:
        second = await swarm.add_manager("m2")
        assert swarm.first.manager is not None
        await swarm.first.manager.leave()
        await swarm.first.kill()
        assert len(second.control_raft().status().members) == 1
        nodes = await second.control().list_nodes({})
        assert [node.manager_status is not None for node in nodes] == [False, True]


def test_founding_with_a_bad_spec_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument):
        found(replace(Swarm(tmp_path)._spec, name="other"), free_addr(), CLOCK)
    assert list(tmp_path.iterdir()) == []
