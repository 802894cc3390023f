"""Objects for the tests of the manager's planners: named by what matters, the rest by default."""

from __future__ import annotations

import itertools
from typing import Any

from api.types.objects import Meta, Node, NodeDescription, NodeState, NodeStatus, Service, Task, TaskState, TaskStatus
from api.types.swarm import (
    ContainerSpec,
    NodeSpec,
    Placement,
    ReplicatedService,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from base.clock import NS
from manager.orchestrator.slots import Context

counter = itertools.count(1)


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now_ns(self) -> int:
        return int(self.seconds * NS)

    def monotonic(self) -> float:
        return self.seconds


def node(
    node_id: str, *, state: NodeState = NodeState.READY, availability: str = "active", role: str = "worker",
    labels: dict[str, str] | None = None, cpus: int = 4, memory: int = 2**30, **more: Any,
) -> Node:  # fmt: skip
    return Node(
        id=node_id,
        spec=NodeSpec(role=role, availability=availability, labels=labels or {}),
        role=role,
        status=NodeStatus(state=state),
        description=NodeDescription(hostname=f"host-{node_id}", nano_cpus=cpus * NS, memory_bytes=memory),
        **more,
    )


def template(
    image: str = "busybox", *, constraints: list[str] | None = None, memory: int = 0, cpus: int = 0,
    restart: RestartPolicy | None = None,
) -> TaskSpec:  # fmt: skip
    return TaskSpec(
        container_spec=ContainerSpec(image=image),
        placement=Placement(constraints=constraints or []),
        resources=ResourceRequirements(reservations=Resources(nano_cpus=cpus * NS, memory_bytes=memory)),
        restart_policy=restart,
    )


def service(
    replicas: int | None = 1, *, task: TaskSpec | None = None, update: UpdateConfig | None = None, version: int = 1,
    mode: ServiceMode | None = None, **more: Any,
) -> Service:  # fmt: skip
    return Service(
        id="svc",
        spec=ServiceSpec(
            name="web",
            task_template=task or template(),
            mode=mode or ServiceMode(replicated=ReplicatedService(replicas=replicas)),
            update_config=update,
        ),
        spec_version=version,
        **more,
    )


def task(
    of: Service, slot: int = 1, *, state: TaskState = TaskState.RUNNING, desired: TaskState = TaskState.RUNNING,
    on: str = "n1", created: float | None = None, updated: float | None = None, version: int | None = None,
    spec: TaskSpec | None = None, at: float = 0,
) -> Task:  # fmt: skip
    """A task of the service; times in seconds. Created in the order of the calls unless told otherwise."""
    number = next(counter)
    made = int((number if created is None else created) * NS)
    return Task(
        id=f"task{number}",
        service_id=of.id,
        service_name=of.spec.name,
        slot=slot,
        node_id=on,
        spec=spec or of.spec.task_template,
        spec_version=of.spec_version if version is None else version,
        status=TaskStatus(state=state, timestamp=int(at * NS)),
        desired_state=desired,
        meta=Meta(version=number, created_at=made, updated_at=made if updated is None else int(updated * NS)),
    )


def context(of: Service, *nodes: Node, now: float = 10_000) -> Context:
    ids = itertools.count(1)
    return Context(of, {each.id: each for each in nodes}, int(now * NS), lambda: f"new{next(ids)}")
