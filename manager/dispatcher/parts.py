"""Cuts an assignments message into parts that fit the RPC's size limit. Pure.

A node takes the parts of one message together: a complete assignment is complete or it is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from api.types.dataplane import OverlayService
from api.types.dispatch import AssignmentsMessage
from api.types.objects import Task

PART_BYTES = 1_000_000
"""A part grows until it is larger than this; the largest single item is below the store's transaction limit of 1.5 MB,
and a message may have 4 MiB."""

T = TypeVar("T", Task, OverlayService)


def parts(message: AssignmentsMessage, part_bytes: int = PART_BYTES) -> Iterator[AssignmentsMessage]:
    """The message itself when it is small; else parts of it, all but the last marked `more`."""
    task_runs = _runs(message.update_tasks, part_bytes)
    service_runs = _runs(message.update_services, part_bytes)
    if len(task_runs) + len(service_runs) <= 1:
        yield message
        return
    empty = AssignmentsMessage(complete=message.complete, sequence=message.sequence, index=message.index, more=True)
    yield msgspec.structs.replace(message, update_tasks=[], update_services=[], more=True)
    for tasks in task_runs:
        yield msgspec.structs.replace(empty, update_tasks=tasks)
    for services in service_runs:
        yield msgspec.structs.replace(empty, update_services=services)
    yield msgspec.structs.replace(empty, more=False)


def _runs(items: list[T], part_bytes: int) -> list[list[T]]:
    runs: list[list[T]] = []
    room = 0
    for item in items:
        if room <= 0:
            runs.append([])
            room = part_bytes
        runs[-1].append(item)
        room -= len(msgspec.msgpack.encode(item))
    return runs
