"""Where tasks go. Pure: tasks, nodes and what runs on them in, decisions with a reason out.

Equal tasks of a service are placed as one group: the nodes are filtered once, then a heap spreads the tasks, first by
the service's tasks on a node, then by all tasks on it. Invariant: a batch never promises more than a node has.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from api.types.objects import Node, Task, TaskState
from manager.scheduler.filters import PIPELINE, NodeInfo


@dataclass(frozen=True)
class Decision:
    """`node_id` empty: nowhere, for `reason`."""

    task: Task
    node_id: str
    reason: str = ""


def decide(pending: Sequence[Task], nodes: Iterable[Node], placed: Iterable[Task]) -> list[Decision]:
    """Place the pending tasks.

    Args:
        pending: tasks in PENDING that shall run; one with a node id (of a global service) is only checked.
        placed: tasks that hold a node already; those that are over or shall end don't count.
    """
    infos = {node.id: _info(node) for node in nodes}
    for task in placed:
        if task.node_id in infos and _occupies(task):
            infos[task.node_id].add(task)
    decisions: list[Decision] = []
    for group in _groups(pending):
        decisions.extend(_place(group, infos))
    return decisions


def _occupies(task: Task) -> bool:
    """Whether it holds its node's resources, or will."""
    held = task.status.state >= TaskState.ASSIGNED and not task.status.state.terminal
    return held and task.desired_state <= TaskState.RUNNING


def _info(node: Node) -> NodeInfo:
    description = node.description
    return NodeInfo(
        node,
        nano_cpus=description.nano_cpus if description is not None else 0,
        memory_bytes=description.memory_bytes if description is not None else 0,
        tasks=0,
        service_tasks={},
    )


def _groups(pending: Sequence[Task]) -> list[list[Task]]:
    groups: dict[tuple[str, str, bytes], list[Task]] = {}
    for task in pending:
        key = (task.service_id, task.node_id, msgspec.msgpack.encode(task.spec))
        groups.setdefault(key, []).append(task)
    return list(groups.values())


def _place(group: list[Task], infos: dict[str, NodeInfo]) -> list[Decision]:
    first = group[0]
    candidates = list(infos.values())
    if first.node_id:
        candidates = [infos[first.node_id]] if first.node_id in infos else []
    checks = [stage.make(first) for stage in PIPELINE]
    failed = [0] * len(PIPELINE)

    def fits(info: NodeInfo) -> bool:
        for position, check in enumerate(checks):
            if not check(info):
                failed[position] += 1
                return False
        return True

    def rank(info: NodeInfo) -> tuple[int, int, str]:
        return info.service_tasks.get(first.service_id, 0), info.tasks, info.node.id

    heap = [(rank(info), info) for info in candidates if fits(info)]
    heapq.heapify(heap)
    decisions = []
    for task in group:
        while heap and not fits(heap[0][1]):
            heapq.heappop(heap)
        if not heap:
            decisions.append(Decision(task, "", _reason(failed)))
            continue
        info = heap[0][1]
        info.add(task)
        decisions.append(Decision(task, info.node.id))
        heapq.heapreplace(heap, (rank(info), info))
    return decisions


def _reason(failed: list[int]) -> str:
    parts = [stage.explain(count) for stage, count in zip(PIPELINE, failed, strict=True) if count]
    return f"no suitable node ({'; '.join(parts)})" if parts else "no suitable node"
