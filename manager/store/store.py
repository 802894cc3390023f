"""The store as the manager's parts use it: synchronous reads, transactions through the log, watches.

Order of a write: decide on the state as applied here → propose → committed on a majority → applied → the caller goes
on. Transactions of one manager run one after the other; one of an earlier leader that turns up late loses by the
version check in `memory.apply`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from api import errors
from base.clock import Clock
from base.supervise import TaskOwner
from manager.store.memory import Action, Change, Memory, Rejection, Transaction
from manager.store.proposer import Proposer
from manager.store.tables import TABLE_OF, StoreObject, encode
from manager.store.transitions import Component
from manager.store.view import View
from manager.store.watch import QUEUE_CHANGES_MAX, Watch, WatchHub

T = TypeVar("T")

TRANSACTION_BYTES_MAX = 1_500_000
"""A proposal must fit one RPC message with room to spare; a batch that is larger is split by its loop."""
ACTIONS_MAX = 500
"""Loops commit at most so many changes at a time, so that none holds the log for long."""


class Batch:
    """One transaction in the making. Reads show the state before it."""

    def __init__(self, view: View, now_ns: int) -> None:
        self.view = view
        self.now = now_ns
        self.actions: list[Action] = []

    def put(self, item: StoreObject) -> None:
        """Create or replace. The object's `meta.version` is the version that was read: 0 for a new one."""
        table = TABLE_OF[type(item)].name
        self.actions.append(Action(table=table, id=item.id, base=item.meta.version, data=encode(item)))

    def delete(self, item: StoreObject) -> None:
        self.actions.append(Action(table=TABLE_OF[type(item)].name, id=item.id, base=item.meta.version))


class Store:
    """Satisfies `raft.node.StateMachine` below and serves the loops above."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._memory = Memory()
        self._hub = WatchHub()
        self._proposer: Proposer | None = None
        self._writing = asyncio.Lock()
        self._proposals = TaskOwner("store")

    def bind(self, proposer: Proposer) -> None:
        """Say where transactions go; the log needs the store first, and the store the log."""
        self._proposer = proposer

    # --- the state machine's side -------------------------------------------------------------------------------

    def apply(self, index: int, data: bytes) -> list[Change] | Rejection:
        """Apply a committed entry. Deterministic; the proposer gets what it returns."""
        outcome = self._memory.apply(index, data)
        if isinstance(outcome, list):
            self._hub.publish(outcome)
        return outcome

    def snapshot(self) -> bytes:
        return self._memory.snapshot()

    def restore(self, index: int, data: bytes) -> None:
        self._memory.restore(index, data)
        self._hub.rescan()

    # --- the loops' side ----------------------------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        return self._clock

    def view(self) -> View:
        """Reads of the state applied here. On a follower it may lag: take a read barrier first."""
        return View(self._memory)

    def watch(self, tables: Collection[str], limit: int = QUEUE_CHANGES_MAX) -> Watch:
        """Changes from now on; open it before the first scan, and nothing falls in between."""
        return self._hub.watch(tables, limit)

    async def update(self, component: Component, change: Callable[[Batch], T]) -> T:
        """Run `change` on the current state and commit what it puts; nothing put, nothing proposed.

        Raises:
            OutOfSequence: an object was changed by someone else since it was read.
            Conflict: a name is taken.
            Unavailable: not the leader, or leadership was lost and the outcome is unknown.

        Cancellation: the transaction is on its way and may be committed; the next one waits for it all the same, so
        that it decides on what this one leaves.
        """
        await self._writing.acquire()
        proposal: asyncio.Task[Any] | None = None
        try:
            batch = Batch(self.view(), self._clock.now_ns())
            value = change(batch)
            if batch.actions:
                proposal = self._proposals.spawn(self._propose(_encoded(component, batch)), name="proposal")
                _raise_rejection(await asyncio.shield(proposal))
            return value
        finally:
            if proposal is None or proposal.done():
                self._writing.release()
            else:
                proposal.add_done_callback(lambda _: self._writing.release())

    async def _propose(self, data: bytes) -> Any:
        """What became of a proposal, as a value: its caller may be gone."""
        if self._proposer is None:
            return errors.Unavailable("the store has no log yet")
        try:
            return (await self._proposer.propose(data)).result
        except errors.ShoalError as error:
            return error


def _encoded(component: Component, batch: Batch) -> bytes:
    data = encode(Transaction(component=component.value, time=batch.now, actions=batch.actions))
    if len(data) > TRANSACTION_BYTES_MAX:
        raise errors.InvalidArgument(f"the change is too large ({len(data)} bytes, at most {TRANSACTION_BYTES_MAX})")
    return data


def _raise_rejection(result: Any) -> None:
    if isinstance(result, errors.ShoalError):
        raise result
    if not isinstance(result, Rejection):
        return
    if result.reason == "sequence":
        raise errors.OutOfSequence(result.message)
    if result.reason == "name":
        raise errors.Conflict(result.message)
    raise AssertionError(result.message)
