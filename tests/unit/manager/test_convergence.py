"""The loops together, whatever happens in between: lost leaders after any step, nodes that go and come, random users.

In the end each service has exactly the containers that its spec asks for, and nothing is forgotten.
"""

from __future__ import annotations

import os
from collections import Counter

import msgspec
import pytest

from api.types.objects import Node, NodeState, Service, Task, TaskState
from api.types.swarm import GlobalService, ServiceMode, UpdateConfig
from manager.labels import REBALANCE
from tests.unit.manager import make
from tests.unit.manager.model import Model

STEPS = 40
"""More proposals than any of the changes below takes."""


def service(name: str, replicas: int, image: str = "busybox:1", **more: object) -> Service:
    of = make.service(replicas, task=make.template(image), update=UpdateConfig(parallelism=2), **more)  # type: ignore[arg-type]
    return msgspec.structs.replace(of, id=name, spec=msgspec.structs.replace(of.spec, name=name))


def labelled(of: Service, moves: str) -> Service:
    """With a budget of moves a minute."""
    return msgspec.structs.replace(of, spec=msgspec.structs.replace(of.spec, labels={REBALANCE: moves}))


def images(model: Model) -> Counter[str]:
    view = model.store.view()
    return Counter(
        task.spec.container_spec.image
        for tasks in model.running.values()
        for task_id in tasks
        if (task := view.get(Task, task_id)) is not None
    )


@pytest.mark.parametrize("interrupted_after", range(1, STEPS, 3))
async def test_a_leader_lost_after_any_step_of_an_update(interrupted_after: int) -> None:
    model = Model(interrupted_after)
    await model.begin(3)
    await model.put_service(service("web", 5))
    await model.settle(20)
    assert images(model) == {"busybox:1": 5}
    await model.put_service(service("web", 5, "busybox:2"))
    model.proposer.left = interrupted_after
    await model.settle(60)
    assert images(model) == {"busybox:2": 5}
    done = model.store.view().get(Service, "web")
    assert done is not None
    assert done.update_status is not None
    assert done.update_status.state == "completed"


@pytest.mark.parametrize("interrupted_after", range(1, 16, 2))
@pytest.mark.parametrize("replicas", [0, 2, 9])
async def test_a_leader_lost_after_any_step_of_scaling(replicas: int, interrupted_after: int) -> None:
    model = Model(interrupted_after)
    await model.begin(3)
    await model.put_service(service("web", 5))
    await model.settle(20)
    await model.put_service(service("web", replicas))
    model.proposer.left = interrupted_after
    await model.settle(30)
    assert model.counts().get("web", 0) == replicas
    assert len(model.store.view().all(Task)) == replicas


@pytest.mark.parametrize("interrupted_after", range(1, 10))
async def test_a_leader_lost_after_any_step_of_a_removal(interrupted_after: int) -> None:
    model = Model(interrupted_after)
    await model.begin(2)
    await model.put_service(service("web", 4))
    await model.settle(20)
    await model.remove_service("web")
    model.proposer.left = interrupted_after
    await model.settle(30)
    assert model.counts() == {}
    assert model.store.view().all(Task) == []


async def test_a_node_that_was_cut_off_has_no_duplicates_after_its_return() -> None:
    model = Model()
    await model.begin(3)
    await model.put_service(service("web", 6))
    await model.settle(20)
    lost = set(model.running["n1"])
    model.cut.add("n1")
    await model.set_node("n1", state=NodeState.DOWN)
    await model.settle(30)
    assert model.running["n1"] == lost, "nobody told it to stop"
    assert sum(len(model.running[node]) for node in ("n0", "n2")) == 6
    model.cut.clear()
    await model.set_node("n1", state=NodeState.READY)
    await model.settle(20)
    assert model.counts() == {"web": 6}
    assert not model.running["n1"] & lost


async def test_a_node_where_tasks_keep_failing_is_avoided() -> None:
    model = Model()
    await model.begin(2)
    model.image_fails = lambda task: task.node_id == "n0"
    await model.put_service(service("web", 2))
    await model.settle(120, seconds=1)
    assert (len(model.running["n0"]), len(model.running["n1"])) == (0, 2)


SEEDS = 84 if os.environ.get("SHOAL_LONG") else 12
"""A seed is 120 changes: 1,440 of them, or 10,080."""


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_random_users_faults_and_leaders(seed: int) -> None:
    model = Model(seed)
    rng = model.rng
    await model.begin(4)
    expected: dict[str, tuple[int, str]] = {}
    for _ in range(120):
        match rng.randrange(9):
            case 0 | 1 | 2:
                name, replicas, image = f"s{rng.randrange(4)}", rng.randrange(7), f"busybox:{rng.randrange(3)}"
                expected[name] = (replicas, image)
                await model.put_service(labelled(service(name, replicas, image), rng.choice(["0", "60"])))
            case 3 if expected:
                name = rng.choice(sorted(expected))
                del expected[name]
                await model.remove_service(name)
            case 4:
                node = f"n{rng.randrange(1, 4)}"
                model.cut.add(node)
                await model.set_node(node, state=NodeState.DOWN)
            case 5 if model.cut:
                node = rng.choice(sorted(model.cut))
                model.cut.discard(node)
                await model.set_node(node, state=NodeState.READY)
            case 6:
                await model.set_node(f"n{rng.randrange(1, 4)}", availability=rng.choice(["active", "pause", "drain"]))
            case 7:
                model.proposer.left = rng.randrange(1, 8)
            case _:
                model.clock.seconds += rng.random() * 20
        for _ in range(rng.randrange(4)):
            await model.loops()
            await model.nodes()
    model.cut.clear()
    for node in model.store.view().all(Node):
        await model.set_node(node.id, state=NodeState.READY, availability="active")
    await model.settle(150)
    assert model.counts() == {name: replicas for name, (replicas, _) in expected.items() if replicas}
    tasks = model.store.view().all(Task)
    live = [task for task in tasks if task.desired_state <= TaskState.RUNNING]
    assert {(task.service_id, task.spec.container_spec.image) for task in live} == {
        (name, image) for name, (replicas, image) in expected.items() if replicas
    }
    assert all(task.service_id in expected for task in tasks), "a removed service's tasks are forgotten"


async def test_a_global_service_follows_the_nodes() -> None:
    model = Model()
    await model.begin(3)
    everywhere = make.service(mode=ServiceMode(global_=GlobalService()))
    await model.put_service(everywhere)
    await model.settle(20)
    assert {node: len(tasks) for node, tasks in model.running.items()} == {"n0": 1, "n1": 1, "n2": 1}
    await model.set_node("n1", availability="drain")
    await model.settle(20)
    assert {node: len(tasks) for node, tasks in model.running.items()} == {"n0": 1, "n1": 0, "n2": 1}
    await model.set_node("n1", availability="active")
    await model.settle(20)
    assert model.counts() == {"svc": 3}
