"""The asyncio shell of one member: it owns the core, and does what each `Ready` asks in the one right order.

Persist, then send, then apply (a leader's own messages go out at once, see raft/core/raft.py). While the writer
thread persists, inputs go on into the core and gather for the next batch, so one fsync carries many proposals.
Everything else happens on the event loop, so nothing here needs a lock.

Invariants: the state machine sees each committed entry once, in order; a proposal's caller hears of success only
after it was applied here; a failing disk or state machine ends `run` and with it this member.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec

from api.errors import Conflict, ShoalError, Unavailable
from base.offload import Pool
from raft.contract import Applied, RaftConfig, StateMachine
from raft.core.membership import AddLearner, Change, Promote, Remove, UpdateAddr
from raft.core.messages import NOBODY, Entry, EntryKind, Message, Ready, Snapshot, Stored, first_member
from raft.core.raft import Raft
from raft.errors import LeadershipLost, NotLeader
from raft.status import LeadershipChange, Member, Status, leadership_of, status_of
from raft.storage.contract import Storage
from raft.transport.contract import Transport

if TYPE_CHECKING:
    from random import Random

__all__ = ["Applied", "LeadershipChange", "Member", "RaftConfig", "RaftNode", "StateMachine", "Status"]

log = logging.getLogger(__name__)


class RaftNode:
    """One member. Make it, then `run` it for as long as it lives; the other calls need `run` to be running."""

    def __init__(
        self,
        *,
        raft_id: int,
        storage: Storage,
        transport: Transport,
        machine: StateMachine,
        rng: Random,
        config: RaftConfig | None = None,
        found_at: str = "",
        on_leader_change: Callable[[LeadershipChange], None] | None = None,
    ) -> None:
        """
        Args:
            raft_id: 63 random bits, given by the leader at join (or drawn by the founder); must match the storage's.
            found_at: with an empty storage: begin a group of one whose member listens here. Left empty, a member
                with an empty storage waits for a leader's messages. Ignored when the storage has a log.
            on_leader_change: called on the loop at each change; must return at once.
        """
        self.raft_id = raft_id
        self._storage = storage
        self._transport = transport
        self._machine = machine
        self._rng = rng
        self._config = config or RaftConfig()
        self._found_at = found_at
        self._on_leader_change = on_leader_change
        self._core = Raft(raft_id=raft_id, limits=self._config.limits, rng=rng, stored=Stored())
        self._writer = Pool(f"raft-{raft_id:x}", 1)
        self._applied = 0
        self._proposals: dict[int, tuple[int, asyncio.Future[Applied]]] = {}
        self._barriers: list[asyncio.Future[int]] = []
        self._read_states: dict[int, asyncio.Future[int]] = {}
        # Random start: an answer meant for a former life of this member matches nothing.
        self._contexts = itertools.count(rng.getrandbits(62))
        self._wake = asyncio.Event()
        self._barrier_wake = asyncio.Event()
        self._applied_changed = asyncio.Event()
        self._leadership = LeadershipChange(term=0, leader_id=NOBODY, leader_addr="", is_leader=False)
        self._leadership_changed = asyncio.Event()
        self._peers: dict[int, str] | None = None
        self._running = False
        self._writing_since: float | None = None
        self._broken = asyncio.Event()
        self._failure: Exception | None = None

    # Life

    async def run(self, ready: asyncio.Event) -> None:
        """Load the log, then take part until cancelled. Sets `ready` once calls are welcome.

        Raises: what broke this member (StorageCorrupt, an error of the disk or of the state machine).
        """
        try:
            self._start(await self._writer.run(self._load))
            ready.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._transport.run(self.raft_id, self), name="raft/transport")
                tasks.create_task(self._tick_forever(), name="raft/ticks")
                tasks.create_task(self._work_forever(), name="raft/ready")
                tasks.create_task(self._read_forever(), name="raft/reads")
                tasks.create_task(self._until_broken(), name="raft/broken")
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        finally:
            self._running = False
            self._fail_proposals(everything=True)
            for waiter in [*self._barriers, *self._read_states.values()]:
                _fail(waiter, Unavailable("raft has stopped on this node"))
            self._set_leadership(
                LeadershipChange(term=self._core.term, leader_id=NOBODY, leader_addr="", is_leader=False)
            )
            try:
                await self._writer.run(self._storage.close)
            finally:
                self._writer.close()

    def _load(self) -> Stored:
        owner = self._storage.raft_id()
        if owner is None:
            first = first_member(self.raft_id, self._found_at) if self._found_at else Stored()
            self._storage.create(self.raft_id, first)
        elif owner != self.raft_id:
            raise Conflict(f"the raft log on disk belongs to member {owner:x}, not to {self.raft_id:x}")
        return self._storage.load()

    def _start(self, stored: Stored) -> None:
        if stored.snapshot.index:
            self._machine.restore(stored.snapshot.index, stored.snapshot.data)
        self._applied = stored.snapshot.index
        self._core = Raft(raft_id=self.raft_id, limits=self._config.limits, rng=self._rng, stored=stored)
        self._running = True
        self._pump()

    async def _until_broken(self) -> None:
        """Bring what broke in a callback into `run`."""
        await self._broken.wait()
        assert self._failure is not None
        raise self._failure

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Whatever goes wrong inside the core ends this member, whoever called it."""
        try:
            yield
        except ShoalError:
            raise  # a refusal, and the caller's to handle
        except Exception as error:
            self._failure = error
            self._broken.set()
            raise

    async def _tick_forever(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            # A late loop skips ticks: it must not take its own delay for another's silence.
            due = max(due + self._config.tick_s, loop.time())
            await asyncio.sleep(due - loop.time())
            self._core.tick()
            self._maybe_yield_leadership()
            self._pump()

    def _maybe_yield_leadership(self) -> None:
        """A leader whose disk hangs sends heartbeats but can't answer its callers: let another lead."""
        limit_s = 2 * self._config.limits.election_tick * self._config.tick_s
        since = self._writing_since
        if since is None or self._core.leading is None or asyncio.get_running_loop().time() - since < limit_s:
            return
        log.warning("raft leader's disk hangs, handing leadership over")
        with suppress(ShoalError):  # nobody else to lead
            self._core.transfer(None)

    def _pump(self) -> None:
        """After every input: let out what may go at once, and wake the worker for the rest."""
        with self._guard():
            self._let_out()

    def _let_out(self) -> None:
        self._transport.send(self._core.take_early())
        history = self._core.log.history
        peers = history.at(self._core.log.commit).all() | history.latest.all()
        peers.pop(self.raft_id, None)
        if peers != self._peers:
            self._peers = peers
            self._transport.set_peers(peers)
        if self._core.has_ready():
            self._wake.set()
        if (self._core.term, self._core.leader) != (self._leadership.term, self._leadership.leader_id):
            self._note_leadership()  # not only after the next batch: the disk may hang

    async def _work_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._core.has_ready():
                await self._work(self._core.ready())
                self._pump()
                await asyncio.sleep(0)

    async def _work(self, ready: Ready) -> None:
        """One batch: persist, send, apply."""
        if ready.hard_state is not None:
            self._writing_since = asyncio.get_running_loop().time()
            await self._writer.run(self._storage.save, ready.hard_state, ready.snapshot, ready.entries)
            self._writing_since = None
        self._core.persisted(ready)
        self._transport.send(ready.messages)
        if ready.snapshot is not None:
            self._machine.restore(ready.snapshot.index, ready.snapshot.data)
            self._applied = ready.snapshot.index
        for entry in ready.committed:
            self._apply(entry)
        for read in ready.reads:
            waiter = self._read_states.pop(read.context, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(read.index)
        if ready.snapshot is not None or ready.committed:
            self._applied_changed.set()
            self._applied_changed = asyncio.Event()
        self._core.advance()
        self._note_leadership()
        if self._applied - self._core.log.snapshot.index >= self._config.snapshot_interval:
            await self._take_snapshot()

    def _apply(self, entry: Entry) -> None:
        assert entry.index == self._applied + 1, f"entry {entry.index} after {self._applied}"
        result = self._machine.apply(entry.index, entry.data) if entry.kind is EntryKind.DATA else None
        self._applied = entry.index
        term, waiter = self._proposals.pop(entry.index, (0, None))
        if waiter is None or waiter.done():
            return
        if term == entry.term:
            waiter.set_result(Applied(entry.index, result))
        else:
            waiter.set_exception(LeadershipLost())

    async def _take_snapshot(self) -> None:
        core, keep = self._core, self._config.log_entries_for_slow_followers
        term = core.log.term(self._applied)
        assert term is not None
        snapshot = Snapshot(
            index=self._applied,
            term=term,
            membership=core.log.history.at(self._applied),
            data=self._machine.snapshot(),
        )
        base_index, base_term = core.log.base_for(snapshot.index, keep)
        kept = self._config.keep_old_snapshots
        await self._writer.run(self._storage.save_snapshot, snapshot, base_index, base_term, kept)
        core.compact(snapshot, keep)
        log.info("raft snapshot taken index=%d bytes=%d", snapshot.index, len(snapshot.data))

    # What the transport tells

    def receive(self, message: Message) -> None:
        with self._guard():
            self._core.step(message)
        self._pump()

    def connection_lost(self, peer: int) -> None:
        self._core.connection_lost(peer)

    def unreachable(self, peer: int) -> None:
        self._core.report_unreachable(peer)

    def snapshot_done(self, peer: int, *, delivered: bool) -> None:
        self._core.report_snapshot(peer, delivered=delivered)
        self._pump()

    # Proposals

    async def propose(self, data: bytes) -> Applied:
        """Agree on `data` and apply it; only the leader can.

        Raises:
            NotLeader: nothing was done; it carries where the leader is.
            LeadershipLost: it may or may not be applied later.
            Unavailable: too much is under way, or leadership is being handed over; nothing was done.
            InvalidArgument: too large.

        Cancellation: the entry may be applied all the same.
        """
        self._must_run()
        return await self._agreed(self._core.propose(data))

    async def _agreed(self, entry: Entry) -> Applied:
        waiter: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._proposals[entry.index] = (entry.term, waiter)
        # The entries of one turn of the loop share an Append: the pump runs after them.
        asyncio.get_running_loop().call_soon(self._pump)
        return await waiter

    def _fail_proposals(self, *, everything: bool) -> None:
        """Leadership is gone: tell the proposers, but for those whose entry is committed and about to be applied."""
        core = self._core
        for index, (term, waiter) in list(self._proposals.items()):
            if everything or index > core.log.commit or core.log.term(index) != term:
                del self._proposals[index]
                _fail(waiter, LeadershipLost())

    async def add_learner(self, raft_id: int, addr: str) -> None:
        """Let a new member follow the log without a vote. Leader only; raises as `propose`, and Conflict."""
        await self._change(AddLearner(raft_id=raft_id, addr=addr))

    async def promote(self, raft_id: int) -> None:
        """Give a learner its vote, once it has caught up. Leader only.

        Raises as `propose`; NotFound; Unavailable when it does not catch up within `catch_up_timeout_s`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.catch_up_timeout_s
        while True:
            try:
                return await self._change(Promote(raft_id=raft_id))
            except (NotLeader, LeadershipLost):
                raise
            except Unavailable:
                if loop.time() >= deadline:
                    raise
            await asyncio.sleep(self._config.tick_s)

    async def remove(self, raft_id: int) -> None:
        """Remove a member for good (the leader too: it then steps down). Raises as `propose`; NotFound; Conflict when
        the remaining members that are heard would be no majority."""
        await self._change(Remove(raft_id=raft_id))

    async def update_addr(self, raft_id: int, addr: str) -> None:
        """A member listens elsewhere now. Raises as `propose`, and NotFound."""
        await self._change(UpdateAddr(raft_id=raft_id, addr=addr))

    async def _change(self, change: Change) -> None:
        self._must_run()
        await self._agreed(self._core.propose_change(change))

    async def transfer_leadership(self, to: int | None = None) -> None:
        """Hand leadership to a voter (the furthest, if not named) and wait until it is gone from here.

        Raises NotLeader, NotFound, Unavailable when the other did not take it within an election timeout.
        """
        self._must_run()
        if to == self.raft_id:
            return
        self._core.transfer(to)
        self._pump()
        limit_s = (self._config.limits.election_tick + 1) * self._config.tick_s
        try:
            async with asyncio.timeout(limit_s):
                while self._core.leading is not None:
                    await self._leadership_changed.wait()
        except TimeoutError:
            raise Unavailable("the other manager did not take over leadership") from None

    # Reads

    async def read_barrier(self, timeout: float = 10.0) -> int:
        """Wait until local state holds everything that was acknowledged anywhere before this call.

        Returns the index that local state has reached at least. Works on every member.

        Raises Unavailable when no leader with a majority answers within `timeout` seconds.
        """
        self._must_run()
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._barriers.append(waiter)
        self._barrier_wake.set()
        try:
            async with asyncio.timeout(timeout):
                index = await waiter
                while self._applied < index:
                    await self._applied_changed.wait()
        except TimeoutError:
            raise Unavailable("no leader of the swarm's managers answers; is there a majority?") from None
        return index

    async def _read_forever(self) -> None:
        """Rounds of ReadIndex: all callers that wait when a round begins share it."""
        while True:
            await self._barrier_wake.wait()
            self._barrier_wake.clear()
            callers, self._barriers = self._barriers, []
            callers = [waiter for waiter in callers if not waiter.done()]
            if not callers:
                continue
            index = await self._read_round()
            if index is None:
                self._barriers = callers + self._barriers
                self._barrier_wake.set()
                continue
            for waiter in callers:
                if not waiter.done():
                    waiter.set_result(index)

    async def _read_round(self) -> int | None:
        """One request to the leader; None when it got no answer in time."""
        context = next(self._contexts)
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._read_states[context] = waiter
        try:
            self._core.read_index(context)
            self._pump()
            async with asyncio.timeout(3 * self._config.tick_s):
                return await waiter
        except NotLeader:
            await asyncio.sleep(self._config.tick_s)
            return None
        except TimeoutError:
            return None
        finally:
            self._read_states.pop(context, None)

    # State

    def configure(self, config: RaftConfig) -> None:
        """Other settings from now on; timers that run finish by the old ones. The tick's length can't be changed.

        Raises InvalidArgument for limits that contradict each other; nothing is changed then.
        """
        limits = config.limits.validate()
        self._config = msgspec.structs.replace(config, tick_s=self._config.tick_s)
        self._core.limits = limits

    def status(self) -> Status:
        """What this member knows now."""
        return status_of(self._core, self._applied, self._leadership.is_leader)

    async def watch_leadership(self) -> AsyncIterator[LeadershipChange]:
        """The present leadership, then each change. A slow watcher sees the latest only, but never misses a term."""
        seen = None
        while True:
            if self._leadership == seen:
                await self._leadership_changed.wait()
                continue
            seen = self._leadership
            yield seen

    def _note_leadership(self) -> None:
        if self._core.leading is None and self._proposals:
            self._fail_proposals(everything=False)
        self._set_leadership(leadership_of(self._core, self._applied))

    def _set_leadership(self, now: LeadershipChange) -> None:
        if now == self._leadership:
            return
        self._leadership = now
        self._leadership_changed.set()
        self._leadership_changed = asyncio.Event()
        log.info("raft leadership term=%d leader=%x is_leader=%s", now.term, now.leader_id, now.is_leader)
        if self._on_leader_change is not None:
            self._on_leader_change(now)

    def _must_run(self) -> None:
        if not self._running:
            raise Unavailable("raft is not running on this node")


def _fail(waiter: asyncio.Future[Any], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
