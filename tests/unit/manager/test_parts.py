"""Cutting a large assignment and joining it again: nothing lost, every part small, one message in the end."""

from __future__ import annotations

import msgspec
import pytest

from api.errors import Internal
from api.types.dispatch import AssignmentsMessage
from api.types.swarm import ContainerSpec, TaskSpec
from manager.dispatcher.parts import parts
from tests.unit.manager import make
from worker.agent.session import joined


def message(count: int, size: int) -> AssignmentsMessage:
    service = make.service(count, task=TaskSpec(container_spec=ContainerSpec(image="busybox", env=["A=" + "x" * size])))
    tasks = [make.task(service, slot) for slot in range(1, count + 1)]
    return AssignmentsMessage(complete=True, sequence=0, index=7, update_tasks=tasks, remove_tasks=["gone"])


@pytest.mark.parametrize(("count", "size"), [(0, 0), (3, 10), (40, 1_000), (7, 20_000)])
def test_parts_are_small_and_come_together_again(count: int, size: int) -> None:
    whole = message(count, size)
    cut = list(parts(whole, 10_000))
    assert joined(cut) == whole
    assert [part.more for part in cut] == [True] * (len(cut) - 1) + [False]
    largest = max((len(msgspec.msgpack.encode(task)) for task in whole.update_tasks), default=0)
    assert all(len(msgspec.msgpack.encode(part)) < 10_500 + largest for part in cut)
    assert len(cut) == 1 or size * count > 10_000


def test_parts_of_different_messages_do_not_join() -> None:
    first = next(iter(parts(message(40, 1_000), 10_000)))
    with pytest.raises(Internal, match="several messages"):
        joined([first, AssignmentsMessage(complete=False, sequence=1, index=8)])
