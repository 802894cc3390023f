"""Operations find the leader through an election or a handover, and are sent again only when nothing was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from api.errors import Unavailable
from manager import operations as ops
from manager.forward import LeaderLink
from raft.errors import HandingOver, LeadershipLost, NotLeader


@dataclass
class Leads:
    is_leader: bool = True
    leader_id: int = 1
    leader_addr: str = ""
    raft_id: int = 1

    def status(self) -> Leads:
        return self

    async def read_barrier(self, timeout: float = 10.0) -> int:
        return 0


def link(*outcomes: Any) -> tuple[LeaderLink, list[Any]]:
    """The way to a leader on which an operation comes to these outcomes, one after the other; what is left of them."""
    left = list(outcomes)

    async def run(operation: Any) -> Any:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    made = LeaderLink(Leads(), lambda addr: pytest.fail("nobody else is asked"))
    made.bind(dict.fromkeys(ops.OPERATIONS, run))
    return made, left


async def test_what_was_not_done_is_done_by_the_next_leader() -> None:
    way, left = link(HandingOver(), NotLeader(), Unavailable(HandingOver().message), "done")
    assert await way.execute(ops.RotateRoot()) == "done"
    assert left == []


@pytest.mark.parametrize("error", [LeadershipLost(), Unavailable("too much is under way")])
async def test_what_may_have_been_done_is_not_done_twice(error: Unavailable) -> None:
    way, left = link(error, "twice")
    with pytest.raises(Unavailable, match=error.message[:20]):
        await way.execute(ops.RotateRoot())
    assert left == ["twice"]
