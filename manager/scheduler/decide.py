"""Where tasks go. Pure: tasks, nodes and what runs on them in, decisions with a reason out.

Equal tasks of a service are placed as one group: the nodes are filtered once, then a heap spreads the tasks, first by
the service's tasks on a node, then by all tasks on it; a node on which they have failed again and again comes last.
Invariant: a batch never promises more than a node has.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from api.types.objects import Node, Task, TaskState
from base.clock import NS
from manager.room import occupies
from manager.scheduler.filters import PIPELINE, NodeInfo

FAILURES_MAX = 3
"""A node on which so many tasks of a service's present spec have failed of late is avoided. The task history keeps
enough of them to count."""
FAILURES_WITHIN_NS = 5 * 60 * NS
_FAILED = frozenset({TaskState.FAILED, TaskState.REJECTED})


@dataclass(frozen=True)
class Decision:
    """`node_id` empty: nowhere, for `reason`."""

    task: Task
    node_id: str
    reason: str = ""


def decide(pending: Sequence[Task], nodes: Iterable[Node], placed: Iterable[Task], now: int = 0) -> list[Decision]:
    """Place the pending tasks.

    Args:
        pending: tasks in PENDING that shall run; one with a node id (of a global service) is only checked.
        placed: tasks that hold a node already; those that are over or shall end don't count against a node's room.
        now: ns; failures up to then that are not long past count against a node.
    """
    infos = {node.id: _info(node) for node in nodes}
    failures: Counter[tuple[str, int, str]] = Counter()
    for task in placed:
        if task.node_id in infos and occupies(task):
            infos[task.node_id].add(task)
        elif task.status.state in _FAILED and now - task.status.timestamp < FAILURES_WITHIN_NS:
            failures[task.service_id, task.spec_version, task.node_id] += 1
    decisions: list[Decision] = []
    for group in _groups(pending):
        decisions.extend(_place(group, infos, failures))
    return decisions


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
    groups: dict[tuple[str, str, int, bytes], list[Task]] = {}
    for task in pending:
        key = (task.service_id, task.node_id, task.spec_version, msgspec.msgpack.encode(task.spec))
        groups.setdefault(key, []).append(task)
    return list(groups.values())


def _place(
    group: list[Task], infos: dict[str, NodeInfo], failures: Mapping[tuple[str, int, str], int]
) -> list[Decision]:
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

    def rank(info: NodeInfo) -> tuple[int, int, int, str]:
        failed_here = failures.get((first.service_id, first.spec_version, info.node.id), 0) if failures else 0
        avoided = failed_here if failed_here >= FAILURES_MAX else 0
        return avoided, info.service_tasks.get(first.service_id, 0), info.tasks, info.node.id

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
