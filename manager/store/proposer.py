"""How the store reaches the log. Raft in a manager; straight into the machine in a test of one loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Applied(Protocol):
    """What became of a proposal."""

    @property
    def index(self) -> int: ...

    @property
    def result(self) -> Any: ...


class Proposer(Protocol):
    """Puts a proposal into the replicated log and waits until this manager has applied it.

    Raises Unavailable when this manager is not the leader, or stopped being it before the outcome was known.
    """

    async def propose(self, data: bytes) -> Applied: ...


@dataclass(frozen=True)
class MemoryApplied:
    index: int
    result: Any


class MemoryProposer:
    """A log of one member that forgets: for the tests of loops, which need no Raft."""

    def __init__(self) -> None:
        self.apply: Callable[[int, bytes], Any] | None = None
        self.index = 0
        self.log: list[bytes] = []

    async def propose(self, data: bytes) -> MemoryApplied:
        assert self.apply is not None, "bind the store first"
        self.index += 1
        self.log.append(data)
        return MemoryApplied(self.index, self.apply(self.index, data))
