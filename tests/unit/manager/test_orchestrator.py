"""The planners: slots, restarts, updates, removal. Values in, values out, at made-up times."""

from __future__ import annotations

import msgspec
import pytest

from api.types.objects import Node, NodeState, Service, Task, TaskState, UpdateStatus
from api.types.swarm import GlobalService, RestartPolicy, ServiceMode, UpdateConfig
from base.clock import NS
from manager.orchestrator.plan import ServicePlan, plan_removal, plan_service
from manager.orchestrator.reaper import reap
from tests.unit.manager import make

S = TaskState
NODES = (make.node("n1"), make.node("n2"))


def plan(service: Service, tasks: list[Task], *nodes: Node, now: float = 10_000) -> ServicePlan:
    return plan_service(make.context(service, *(nodes or NODES), now=now), tasks)


def summary(found: ServicePlan) -> list[list[tuple[str, int, str]]]:
    """[(what, slot, desired)] a group."""
    return [
        [("new" if put.id.startswith("new") else put.id, put.slot, put.desired_state.label) for put in group]
        for group in found.groups
    ]


# --- replicas ----------------------------------------------------------------------------------------------------


def test_a_new_service_gets_a_task_a_slot() -> None:
    found = plan(make.service(3), [])
    assert summary(found) == [[("new", slot, "running")] for slot in (1, 2, 3)]
    task = found.groups[0][0]
    assert (task.status.state, task.spec_version, task.node_id) == (S.NEW, 1, "")


def test_what_is_as_wanted_is_left_alone() -> None:
    service = make.service(2)
    found = plan(service, [make.task(service, 1), make.task(service, 2, state=S.PENDING, on="")])
    assert (found.groups, found.service, found.wake_at) == ([], None, None)


def test_scaling_up_fills_the_gaps() -> None:
    service = make.service(3)
    found = plan(service, [make.task(service, 2)])
    assert [group[0][1] for group in summary(found)] == [1, 3]


def test_scaling_down_takes_what_does_not_run_then_from_the_fullest_node() -> None:
    service = make.service(2)
    tasks = [
        make.task(service, 1, on="n1"),
        make.task(service, 2, on="n1"),
        make.task(service, 3, on="n2"),
        make.task(service, 4, on="n2", state=S.PREPARING),
    ]
    found = plan(service, tasks)
    assert summary(found) == [[(tasks[3].id, 4, "remove")], [(tasks[1].id, 2, "remove")]]


def test_scaling_to_nothing_removes_all_with_their_history() -> None:
    service = make.service(0)
    old = make.task(service, 1, state=S.FAILED, desired=S.SHUTDOWN)
    found = plan(service, [old, make.task(service, 1)])
    assert [put.desired_state for group in found.groups for put in group] == [S.REMOVE, S.REMOVE]


def test_a_removed_service_takes_its_tasks_along() -> None:
    service = make.service()
    going = make.task(service, 2, desired=S.REMOVE)
    groups = plan_removal([make.task(service, 1), going])
    assert [[put.desired_state for put in group] for group in groups] == [[S.REMOVE]]


# --- restarts ----------------------------------------------------------------------------------------------------


def test_a_failed_task_is_followed_by_one_that_waits_for_the_delay() -> None:
    service = make.service(task=make.template(restart=RestartPolicy(delay=7 * NS)))
    failed = make.task(service, 1, state=S.FAILED)
    found = plan(service, [failed])
    assert summary(found) == [[(failed.id, 1, "shutdown"), ("new", 1, "ready")]]
    ended = msgspec.structs.replace(failed, desired_state=S.SHUTDOWN)
    waiting = make.task(service, 1, state=S.READY, desired=S.READY, created=10_000)
    early = plan(service, [ended, waiting], now=10_006)
    assert (early.groups, early.wake_at) == ([], 10_007 * NS)
    assert summary(plan(service, [ended, waiting], now=10_007)) == [[(waiting.id, 1, "running")]]


def test_a_task_that_fails_while_it_waits_is_followed_after_the_delay() -> None:
    service = make.service()
    ended = make.task(service, 1, state=S.REJECTED, desired=S.SHUTDOWN)
    rejected = make.task(service, 1, state=S.REJECTED, desired=S.READY, created=100)
    early = plan(service, [ended, rejected], now=101)
    assert (early.groups, early.wake_at) == ([], 105 * NS)
    assert len(plan(service, [ended, rejected], now=105).groups[0]) == 2
    mended = make.service(task=make.template("busybox:2"), version=2)
    assert replaced(plan(mended, [ended, rejected], now=101)) == [1], "a new spec need not wait"


def test_the_default_delay_is_five_seconds() -> None:
    service = make.service()
    ended = make.task(service, 1, state=S.FAILED, desired=S.SHUTDOWN)
    waiting = make.task(service, 1, state=S.READY, desired=S.READY, created=100)
    assert plan(service, [ended, waiting], now=101).wake_at == 105 * NS


def test_no_delay_starts_at_once() -> None:
    service = make.service(task=make.template(restart=RestartPolicy(delay=0)))
    found = plan(service, [make.task(service, 1, state=S.COMPLETE)])
    assert summary(found)[0][1] == ("new", 1, "running")


@pytest.mark.promise("services.create.b11", "services.update.b12")
@pytest.mark.parametrize(
    ("condition", "state", "restarts"),
    [
        ("any", S.COMPLETE, True),
        ("any", S.FAILED, True),
        ("on-failure", S.COMPLETE, False),
        ("on-failure", S.FAILED, True),
        ("on-failure", S.REJECTED, True),
        ("none", S.FAILED, False),
    ],
)
def test_restart_conditions(condition: str, state: TaskState, restarts: bool) -> None:
    service = make.service(task=make.template(restart=RestartPolicy(condition=condition)))
    ended = make.task(service, 1, state=state)
    found = plan(service, [ended])
    assert len(found.groups[0]) == (2 if restarts else 1)
    # Once it is written down, nothing more happens: the plan is stable.
    if not restarts:
        settled = msgspec.structs.replace(ended, desired_state=S.SHUTDOWN)
        assert plan(service, [settled]).groups == []


@pytest.mark.promise("services.create.b12", "services.update.b13")
@pytest.mark.parametrize(
    ("attempts", "failures", "restarts"), [(2, 1, True), (2, 2, True), (2, 3, False), (0, 50, True)]
)
def test_max_attempts(attempts: int, failures: int, restarts: bool) -> None:
    service = make.service(task=make.template(restart=RestartPolicy(max_attempts=attempts)))
    tasks = [make.task(service, 1, state=S.FAILED, desired=S.SHUTDOWN) for _ in range(failures - 1)]
    tasks.append(make.task(service, 1, state=S.FAILED))
    assert (len(plan(service, tasks).groups[0]) == 2) is restarts


@pytest.mark.promise("services.create.b13", "services.update.b14")
@pytest.mark.parametrize(("window", "restarts"), [(0, False), (50, True), (500, False)])
def test_attempts_count_within_the_window(window: int, restarts: bool) -> None:
    policy = RestartPolicy(max_attempts=1, window=window * NS)
    service = make.service(task=make.template(restart=policy))
    first = make.task(service, 1, state=S.FAILED, desired=S.SHUTDOWN, at=100)
    second = make.task(service, 1, state=S.FAILED, at=200)
    assert (len(plan(service, [first, second]).groups[0]) == 2) is restarts


def test_attempts_of_another_spec_do_not_count() -> None:
    service = make.service(task=make.template(restart=RestartPolicy(max_attempts=1)), version=9)
    old = make.task(service, 1, state=S.FAILED, desired=S.SHUTDOWN, version=3)
    assert len(plan(service, [old, make.task(service, 1, state=S.FAILED)]).groups[0]) == 2


# --- nodes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        make.node("n1", state=NodeState.DOWN),
        make.node("n1", availability="drain"),
    ],
)
def test_tasks_leave_a_node_that_is_down_or_drained(bad: Node) -> None:
    service = make.service()
    running = make.task(service, 1, on="n1")
    found = plan(service, [running], bad, make.node("n2"))
    desired = "running" if bad.status.state is NodeState.DOWN else "ready"
    assert summary(found) == [[(running.id, 1, "shutdown"), ("new", 1, desired)]]


def test_a_paused_node_keeps_its_tasks() -> None:
    service = make.service()
    assert plan(service, [make.task(service, 1)], make.node("n1", availability="pause")).groups == []


def test_a_node_that_no_longer_meets_the_constraints_loses_its_tasks() -> None:
    service = make.service(task=make.template(constraints=["node.labels.zone == a"]))
    running = make.task(service, 1, on="n1")
    assert plan(service, [running], make.node("n1", labels={"zone": "a"})).groups == []
    assert len(plan(service, [running], make.node("n1", labels={"zone": "b"})).groups) == 1


def test_a_drained_tasks_successor_waits_until_it_has_stopped() -> None:
    service = make.service()
    stopping = make.task(service, 1, on="n1", desired=S.SHUTDOWN)
    waiting = make.task(service, 1, on="n2", state=S.READY, desired=S.READY)
    drained = make.node("n1", availability="drain")
    assert plan(service, [stopping, waiting], drained, make.node("n2")).groups == []
    stopped = msgspec.structs.replace(stopping, status=msgspec.structs.replace(stopping.status, state=S.SHUTDOWN))
    found = plan(service, [stopped, waiting], drained, make.node("n2"))
    assert summary(found) == [[(waiting.id, 1, "running")]]
    found = plan(service, [stopping, waiting], make.node("n1", state=NodeState.DOWN), make.node("n2"))
    assert summary(found) == [[(waiting.id, 1, "running")]]


def test_tasks_of_a_removed_node_are_orphaned_and_replaced() -> None:
    service = make.service()
    lost = make.task(service, 1, on="gone")
    found = plan(service, [lost])
    assert [(put.status.state, put.desired_state) for put in found.groups[0]] == [(S.ORPHANED, S.SHUTDOWN)]
    assert summary(found)[1] == [("new", 1, "running")]


def test_two_wanted_tasks_in_a_slot_become_one() -> None:
    service = make.service()
    first, second = make.task(service, 1), make.task(service, 1)
    assert summary(plan(service, [first, second])) == [[(first.id, 1, "shutdown")]]


# --- updates -----------------------------------------------------------------------------------------------------


def updated(replicas: int, config: UpdateConfig | None, **more: object) -> tuple[Service, list[Task]]:
    """A service whose template has changed, with its tasks of the old one."""
    old = make.service(replicas)
    tasks = [make.task(old, slot) for slot in range(1, replicas + 1)]
    return make.service(replicas, task=make.template("busybox:2"), update=config, version=2, **more), tasks  # type: ignore[arg-type]


def replaced(found: ServicePlan) -> list[int]:
    return [group[1].slot for group in found.groups if len(group) == 2]


@pytest.mark.promise("services.create.b16", "services.update.b17")
@pytest.mark.parametrize(("parallelism", "slots"), [(1, [1]), (2, [1, 2]), (0, [1, 2, 3, 4])])
def test_parallelism(parallelism: int, slots: list[int]) -> None:
    service, tasks = updated(4, UpdateConfig(parallelism=parallelism))
    found = plan(service, tasks)
    assert replaced(found) == slots
    assert found.service is not None
    assert found.service.update_status == UpdateStatus(
        state="updating", started_at=10_000 * NS, message="update in progress"
    )
    assert found.groups[0][0].desired_state is S.SHUTDOWN
    assert found.groups[0][1].desired_state is S.READY


def test_the_next_slot_waits_for_the_last_one_and_the_delay() -> None:
    updating = UpdateStatus(state="updating", started_at=100 * NS)
    service, (first, second) = updated(2, UpdateConfig(parallelism=1, delay=10 * NS), update_status=updating)
    ended = msgspec.structs.replace(
        first, desired_state=S.SHUTDOWN, status=msgspec.structs.replace(first.status, state=S.SHUTDOWN)
    )
    starting = make.task(service, 1, state=S.STARTING, created=101)
    assert plan(service, [ended, starting, second]).groups == []
    running = msgspec.structs.replace(
        starting, status=msgspec.structs.replace(starting.status, state=S.RUNNING),
        meta=msgspec.structs.replace(starting.meta, updated_at=200 * NS),
    )  # fmt: skip
    early = plan(service, [ended, running, second], now=209)
    assert (early.groups, early.wake_at) == ([], 210 * NS)
    assert replaced(plan(service, [ended, running, second], now=210)) == [2]


def test_an_update_completes_when_all_run() -> None:
    updating = UpdateStatus(state="updating", started_at=0)
    service = make.service(2, version=2, update_status=updating)
    found = plan(service, [make.task(service, 1), make.task(service, 2)])
    assert found.service is not None
    assert found.service.update_status is not None
    assert (found.service.update_status.state, found.service.update_status.completed_at) == ("completed", 10_000 * NS)
    assert plan(found.service, [make.task(service, 1), make.task(service, 2)]).service is None


@pytest.mark.promise("services.create.b17")
@pytest.mark.parametrize(("action", "state"), [("pause", "paused"), ("continue", "updating")])
def test_a_failure_pauses_or_not(action: str, state: str) -> None:
    updating = UpdateStatus(state="updating", started_at=1 * NS, message="update in progress")
    config = UpdateConfig(parallelism=1, failure_action=action)
    service, tasks = updated(2, config, update_status=updating)
    failed = make.task(service, 1, state=S.FAILED, desired=S.SHUTDOWN, created=50)
    retry = make.task(service, 1, created=60)
    ended = msgspec.structs.replace(
        tasks[0], desired_state=S.SHUTDOWN, status=msgspec.structs.replace(tasks[0].status, state=S.SHUTDOWN)
    )
    found = plan(service, [ended, failed, retry, tasks[1]])
    status = (found.service or service).update_status
    assert status is not None
    assert status.state == state
    if state == "paused":
        assert failed.id in status.message
    assert replaced(found) == ([] if state == "paused" else [2])


def test_an_update_that_goes_on_does_not_wait_for_a_slot_that_keeps_failing() -> None:
    updating = UpdateStatus(state="updating", started_at=1 * NS, message="update in progress")
    config = UpdateConfig(parallelism=1, delay=10 * NS, failure_action="continue")
    service, tasks = updated(2, config, update_status=updating)
    ended = msgspec.structs.replace(
        tasks[0], desired_state=S.SHUTDOWN, status=msgspec.structs.replace(tasks[0].status, state=S.SHUTDOWN)
    )
    failed = make.task(service, 1, state=S.FAILED, desired=S.SHUTDOWN, created=50, at=60)
    held = make.task(service, 1, state=S.READY, desired=S.READY, created=61)
    assert replaced(plan(service, [ended, failed, held, tasks[1]], now=69)) == []
    assert replaced(plan(service, [ended, failed, held, tasks[1]], now=70)) == [2]


def test_a_paused_update_stays_so_until_the_spec_changes() -> None:
    service, tasks = updated(2, UpdateConfig(parallelism=1), update_status=UpdateStatus(state="paused"))
    assert plan(service, tasks).groups == []


def test_going_back_to_the_old_spec_replaces_nothing() -> None:
    old = make.service(1)
    service = make.service(1, version=5)
    assert plan(service, [make.task(old, 1)]).groups == []


def test_scaling_is_no_update() -> None:
    service = make.service(2, version=1)
    assert plan(service, [make.task(service, 1)]).service is None


# --- global services ---------------------------------------------------------------------------------------------


@pytest.mark.promise("services.create.b15", "services.update.b16")
def test_a_global_service_has_a_task_on_each_fit_node() -> None:
    service = make.service(mode=ServiceMode(global_=GlobalService()), task=make.template(constraints=["node.id != n3"]))
    nodes = [
        make.node("n1"),
        make.node("n2", availability="drain"),
        make.node("n3"),
        make.node("n4", state=NodeState.DOWN),
    ]
    found = plan(service, [], *nodes)
    assert [(put.node_id, put.slot) for group in found.groups for put in group] == [("n1", 0)]
    running = make.task(service, 0, on="n1")
    assert plan(service, [running], *nodes).groups == []
    leaving = make.task(service, 0, on="n2")
    found = plan(service, [running, leaving], *nodes)
    assert [[(put.id, put.desired_state) for put in group] for group in found.groups] == [[(leaving.id, S.SHUTDOWN)]]


def test_a_global_service_is_updated_too() -> None:
    mode = ServiceMode(global_=GlobalService())
    old = make.service(mode=mode)
    service = make.service(mode=mode, task=make.template("busybox:2"), version=2, update=UpdateConfig(parallelism=1))
    found = plan(service, [make.task(old, 0, on="n1"), make.task(old, 0, on="n2")])
    assert len([group for group in found.groups if len(group) == 2]) == 1


# --- the reaper --------------------------------------------------------------------------------------------------


def history(service: Service, count: int) -> list[Task]:
    return [make.task(service, 1, state=S.FAILED, desired=S.SHUTDOWN) for _ in range(count)]


def test_history_is_kept_up_to_the_limit() -> None:
    service = make.service()
    tasks = [*history(service, 7), make.task(service, 1)]
    assert [task.id for task in reap(tasks, {}, 5)] == [task.id for task in tasks[:3]]


def test_a_task_that_may_run_is_never_forgotten() -> None:
    service = make.service()
    nodes = {"n1": make.node("n1", state=NodeState.DOWN)}
    stopping = make.task(service, 1, desired=S.SHUTDOWN)
    going = make.task(service, 1, desired=S.REMOVE)
    assert reap([stopping, going, make.task(service, 1)], nodes, 1) == []
    assert {task.id for task in reap([stopping, going, make.task(service, 1)], {}, 1)} == {stopping.id, going.id}


def test_the_newest_and_the_attempts_that_count_stay() -> None:
    service = make.service(task=make.template(restart=RestartPolicy(max_attempts=8)))
    tasks = history(service, 9)
    assert reap(tasks, {}, 0) == []
    assert reap(history(make.service(), 1), {}, 0) == []


def test_a_task_that_never_got_a_node_leaves_no_history() -> None:
    service = make.service()
    never = make.task(service, 1, state=S.PENDING, on="", desired=S.SHUTDOWN)
    assert reap([never, make.task(service, 1)], {}, 5) == [never]
