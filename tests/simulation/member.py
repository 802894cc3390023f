"""One simulated member: the real core, a disk that can lose what is not synced, a state machine, and the same
order of work as raft/node.py."""

from __future__ import annotations

import itertools
from functools import partial
from hashlib import blake2b
from random import Random

import msgspec

from api.errors import ShoalError
from raft.core.limits import Limits
from raft.core.membership import Change
from raft.core.messages import Entry, EntryKind, HardState, InstallSnapshot, Message, Ready, Snapshot, Stored
from raft.core.raft import Raft
from tests.simulation.checks import Checker
from tests.simulation.world import World

TICK_MS = 100.0


class Disk:
    """Holds what was synced; `save` is one transaction."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    def save(self, hard_state: HardState, snapshot: Snapshot | None, entries: tuple[Entry, ...]) -> None:
        stored = self.stored
        if snapshot is not None:
            stored = Stored(snapshot=snapshot, base_index=snapshot.index, base_term=snapshot.term)
        kept = stored.entries
        if entries:
            kept = kept[: entries[0].index - stored.base_index - 1] + entries
            assert kept[-1].index == stored.base_index + len(kept), "a gap in the log"
        self.stored = msgspec.structs.replace(stored, hard_state=hard_state, entries=kept)

    def save_snapshot(self, snapshot: Snapshot, base_index: int, base_term: int, keep_old: int = 0) -> None:
        stored = self.stored
        self.stored = msgspec.structs.replace(
            stored,
            snapshot=snapshot,
            base_index=base_index,
            base_term=base_term,
            entries=stored.entries[base_index - stored.base_index :],
        )

    def holds(self, index: int, term: int) -> bool:
        stored = self.stored
        if index <= stored.snapshot.index:
            return True
        position = index - stored.base_index - 1
        return position < len(stored.entries) and stored.entries[position].term == term


class Member:
    def __init__(self, raft_id: int, stored: Stored, world: World, checker: Checker, limits: Limits) -> None:
        self.id = raft_id
        self.world = world
        self.checker = checker
        self.limits = limits
        self.disk = Disk(stored)
        self.up = False
        self.life = 0
        self.period_ms = TICK_MS * world.rng.uniform(0.8, 1.25)
        self.snapshot_interval = world.rng.choice([8, 30, 1000])
        self.keep = world.rng.choice([0, 5, 50])
        self.contexts = itertools.count(raft_id * 10**9)
        checker.members[raft_id] = self
        self.start()

    def start(self) -> None:
        self.up = True
        self.life += 1
        stored = self.disk.stored
        self.core = Raft(raft_id=self.id, limits=self.limits, rng=Random(self.world.rng.random()), stored=stored)
        self.busy = False
        self.writing: Ready | None = None
        self.fresh = True
        self.applied = 0
        self.digest = b""
        self.reads: dict[int, int] = {}
        self.proposals: dict[int, int] = {}
        self.commit_seen = 0
        self.term_seen = stored.hard_state.term
        if stored.snapshot.index:
            self._restore(stored.snapshot)
        self._tick(self.life)

    def crash(self) -> None:
        """Lose what is in memory; what was being written is on disk or not, as a whole."""
        if self.writing is not None and self.world.rng.random() < 0.5:
            self._save(self.writing)
        self.up = False
        self.life += 1

    def _tick(self, life: int) -> None:
        if life == self.life:
            self.core.tick()
            self.pump()
            self.world.later(self.period_ms, lambda: self._tick(life))

    def receive(self, message: Message) -> None:
        if self.up:
            self.core.step(message)
            self.pump()

    def propose(self, data: bytes) -> None:
        try:
            entry = self.core.propose(data)
            self.proposals[entry.index] = entry.term
        except ShoalError:
            pass
        self.pump()

    def change(self, change: Change) -> bool:
        try:
            self.core.propose_change(change)
        except ShoalError:
            return False
        finally:
            self.pump()
        return True

    def transfer(self, to: int | None) -> None:
        try:
            self.core.transfer(to)
        except ShoalError:
            pass
        self.pump()

    def read(self) -> None:
        context = next(self.contexts)
        try:
            self.core.read_index(context)
            self.reads[context] = self.checker.applied_anywhere
        except ShoalError:
            pass
        self.pump()

    # The same order as raft/node.py

    def pump(self) -> None:
        self.checker.stepped(self)
        self._send(self.core.take_early())
        while not self.busy and self.core.has_ready():
            ready = self.core.ready()
            self.checker.appended(self, ready.entries)
            self.busy = True
            if ready.hard_state is None:
                self._finish(ready, self.life)
            else:
                self.writing = ready
                self.world.later(self.world.disk_delay(), partial(self._written, ready, self.life))

    def _written(self, ready: Ready, life: int) -> None:
        if life != self.life:
            return
        self._save(ready)
        self.writing = None
        self._finish(ready, life)
        self.pump()

    def _save(self, ready: Ready) -> None:
        assert ready.hard_state is not None
        self.disk.save(ready.hard_state, ready.snapshot, ready.entries)

    def _finish(self, ready: Ready, life: int) -> None:
        self.core.persisted(ready)
        self.checker.stepped(self)
        self._send(list(ready.messages))
        if ready.snapshot is not None:
            self._restore(ready.snapshot)
        for entry in ready.committed:
            self._apply(entry)
        for read in ready.reads:
            if read.context in self.reads:
                self.checker.read(read.index, self.reads.pop(read.context))
        self.core.advance()
        self.busy = False
        if self.applied - self.core.log.snapshot.index >= self.snapshot_interval:
            self._start_snapshot(life)

    def _start_snapshot(self, life: int) -> None:
        term = self.core.log.term(self.applied)
        assert term is not None
        membership = self.core.log.history.at(self.applied)
        snapshot = Snapshot(index=self.applied, term=term, membership=membership, data=self.digest)
        base = self.core.log.base_for(snapshot.index, self.keep)
        self.busy = True

        def saved() -> None:
            if life == self.life:
                self.disk.save_snapshot(snapshot, *base)
                self.core.compact(snapshot, self.keep)
                self.busy = False
                self.pump()

        self.world.later(self.world.disk_delay(), saved)

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            self.checker.sent(self, message)
            target = self.checker.members.get(message.to)
            if target is None:
                continue
            carried = self.world.carry(self.id, message.to, partial(target.receive, message))
            if isinstance(message, InstallSnapshot) and self.world.rng.random() < 0.8:
                report = partial(self._report_snapshot, self.life, message.to, carried)
                self.world.later(self.world.rng.uniform(1, 300), report)

    def _report_snapshot(self, life: int, peer: int, delivered: bool) -> None:
        if life == self.life:
            self.core.report_snapshot(peer, delivered=delivered)
            self.pump()

    def _apply(self, entry: Entry) -> None:
        text = f"{entry.index} {entry.kind} ".encode() + entry.data
        self.digest = blake2b(self.digest + text, digest_size=16).digest()
        self.checker.applied(self, entry.index, self.digest)
        self.applied = entry.index
        if self.proposals.pop(entry.index, None) == entry.term and entry.kind == EntryKind.DATA:
            self.checker.acknowledged(entry.index, entry.term)

    def _restore(self, snapshot: Snapshot) -> None:
        self.checker.restored(self, snapshot.index, snapshot.data)
        self.fresh = False
        self.applied, self.digest = snapshot.index, snapshot.data
