"""Read points of one leadership (ReadIndex, thesis §6.4): which reads wait for which round of heartbeats.

Invariant: a read is answered with a commit index that was taken when it came in, after the leader had committed
an entry of its own term, and only once a majority has answered a heartbeat sent after that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from raft.core import quorum


class PendingReads:
    def __init__(self, own_id: int) -> None:
        self._own_id = own_id
        self.round = 0
        """Sent with each heartbeat."""
        self._acknowledged: dict[int, int] = {}
        self._waiting: deque[tuple[int, int, int, int]] = deque()

    def add(self, requester: int, context: int, index: int) -> None:
        """A read came in while `index` was committed; it belongs to a new round."""
        self.round += 1
        self._waiting.append((self.round, requester, context, index))

    def acknowledged(self, peer: int, round_: int) -> None:
        self._acknowledged[peer] = max(self._acknowledged.get(peer, 0), round_)

    def confirmed(self, voters: Collection[int]) -> list[tuple[int, int, int]]:
        """Take out (requester, context, index) of the reads whose round a majority has answered."""
        agreed = quorum.agreed_index(voters, self._acknowledged | {self._own_id: self.round})
        done = []
        while self._waiting and self._waiting[0][0] <= agreed:
            done.append(self._waiting.popleft()[1:])
        return done
