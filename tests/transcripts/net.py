"""A few cores joined by hand: nothing moves but what a test delivers. No time, no chance, an obedient disk."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec

from raft.core import membership
from raft.core.limits import Limits
from raft.core.membership import Membership
from raft.core.messages import Entry, EntryKind, HardState, Message, ReadState, Ready, Snapshot, Stored
from raft.core.raft import Raft

Trace = Callable[[str], None]


class Core:
    """One member, its disk and what it has applied."""

    def __init__(self, raft_id: int, stored: Stored, limits: Limits) -> None:
        self.id = raft_id
        self.limits = limits
        self.stored = stored
        self.applied: list[Entry] = []
        self.reads: list[ReadState] = []
        self.up = True
        self.start()

    def start(self) -> None:
        self.raft = Raft(raft_id=self.id, limits=self.limits, rng=Random(self.id), stored=self.stored)
        self.applied = []
        self.up = True

    def save(self, ready: Ready) -> None:
        if ready.hard_state is None:
            return
        if ready.snapshot is not None:
            snapshot = ready.snapshot
            self.stored = Stored(snapshot=snapshot, base_index=snapshot.index, base_term=snapshot.term)
        kept = self.stored.entries
        if ready.entries:
            kept = kept[: ready.entries[0].index - self.stored.base_index - 1] + ready.entries
        self.stored = msgspec.structs.replace(self.stored, hard_state=ready.hard_state, entries=kept)

    def compact(self, keep: int) -> None:
        """Take a snapshot of what is applied."""
        log = self.raft.log
        index = log.handed
        snapshot = Snapshot(
            index=index, term=log.term(index) or 0, membership=log.history.at(index), data=b"state@%d" % index
        )
        base_index, base_term = log.base_for(index, keep)
        self.stored = msgspec.structs.replace(
            self.stored,
            snapshot=snapshot,
            base_index=base_index,
            base_term=base_term,
            entries=self.stored.entries[base_index - self.stored.base_index :],
        )
        self.raft.compact(snapshot, keep)


def quiet(_line: str) -> None:
    """Trace nothing."""


class Net:
    def __init__(self, *ids: int, trace: Trace = quiet, **limits: int) -> None:
        """Members that hold one committed entry: their membership."""
        self.limits = Limits(**limits)
        self.trace = trace
        self.cores: dict[int, Core] = {}
        self.pending: list[Message] = []
        self.cut: set[tuple[int, int]] = set()
        data = membership.encode(Membership(voters={raft_id: f"m{raft_id}" for raft_id in ids}))
        first = Entry(1, 1, EntryKind.CHANGE, data)
        for raft_id in ids:
            self.add(raft_id, Stored(hard_state=HardState(term=1, commit=1), entries=(first,)))

    def add(self, raft_id: int, stored: Stored | None = None) -> Core:
        """A member from its disk; without one it is empty and waits for a leader."""
        core = self.cores[raft_id] = Core(raft_id, stored or Stored(), self.limits)
        self.work(raft_id)
        return core

    def raft(self, raft_id: int) -> Raft:
        return self.cores[raft_id].raft

    def work(self, raft_id: int) -> None:
        """Do what the core asks, in the order of raft/node.py."""
        core = self.cores[raft_id]
        if not core.up:
            return
        self._send(core.raft.take_early())
        while core.raft.has_ready():
            ready = core.raft.ready()
            self._describe(raft_id, ready)
            core.save(ready)
            core.raft.persisted(ready)
            self._send(ready.messages)
            core.applied += ready.committed
            core.reads += ready.reads
            core.raft.advance()
            self._send(core.raft.take_early())

    def _send(self, messages: list[Message] | tuple[Message, ...]) -> None:
        for message in messages:
            self.trace(f"  {message.sender} -> {message.to}: {show(message)}")
            self.pending.append(message)

    def _describe(self, raft_id: int, ready: Ready) -> None:
        if ready.soft_state is not None:
            soft = ready.soft_state
            leader = f", leader {soft.leader}" if soft.leader else ""
            self.trace(f"  {raft_id} is {soft.role.value} in term {soft.term}{leader}")
        if ready.hard_state is not None:
            parts = [f"term {ready.hard_state.term} vote {ready.hard_state.vote}"]
            if ready.snapshot is not None:
                parts.append(f"snapshot {ready.snapshot.index}")
            parts += [brief(entry) for entry in ready.entries]
            self.trace(f"  {raft_id} saves {', '.join(parts)}")
        if ready.committed:
            self.trace(f"  {raft_id} applies {', '.join(brief(entry) for entry in ready.committed)}")
        for read in ready.reads:
            self.trace(f"  {raft_id} may answer read {read.context} at {read.index}")

    # What tests do

    def tick(self, raft_id: int, count: int = 1) -> None:
        for _ in range(count):
            self.cores[raft_id].raft.tick()
            self.work(raft_id)

    def deliver(self) -> None:
        """One round: what is on the way now arrives."""
        batch, self.pending = self.pending, []
        for message in batch:
            core = self.cores.get(message.to)
            if core is None or not core.up or (message.sender, message.to) in self.cut:
                continue
            core.raft.step(message)
            self.work(message.to)

    def settle(self) -> None:
        """Deliver until nothing is on the way."""
        for _ in range(1000):
            if not self.pending:
                return
            self.deliver()
        raise AssertionError("the members never stop talking")

    def step(self, message: Message) -> None:
        self.cores[message.to].raft.step(message)
        self.work(message.to)

    def elect(self, raft_id: int) -> None:
        """Let every voter lose sight of its leader, and one member campaign."""
        for core in self.cores.values():
            if core.up and core.id != raft_id:
                self._forget_leader(core)
        for _ in range(200):
            self.tick(raft_id)
            self.settle()
            if self.raft(raft_id).leading is not None:
                return
        raise AssertionError(f"{raft_id} was not elected")

    def _forget_leader(self, core: Core) -> None:
        leader = core.raft.leader
        if leader != core.id:
            core.raft.connection_lost(leader)

    def isolate(self, *ids: int) -> None:
        """Cut these off from all others, both ways."""
        for one in ids:
            for other in self.cores:
                if other not in ids:
                    self.cut |= {(one, other), (other, one)}

    def heal(self) -> None:
        self.cut.clear()

    def propose(self, raft_id: int, *texts: str) -> None:
        for text in texts:
            self.raft(raft_id).propose(text.encode())
        self.work(raft_id)

    def data(self, raft_id: int) -> list[str]:
        """The data this member has applied since it started."""
        return [entry.data.decode() for entry in self.cores[raft_id].applied if entry.kind is EntryKind.DATA]


def brief(entry: Entry) -> str:
    """`index/term content`."""
    if entry.kind is EntryKind.CHANGE:
        members = membership.decode(entry.data)
        learners = f" learners {sorted(members.learners)}" if members.learners else ""
        return f"{entry.index}/{entry.term} voters {sorted(members.voters)}{learners}"
    return f"{entry.index}/{entry.term} {entry.data.decode() or 'no-op'}"


def show(message: Message) -> str:
    """A message on one line; what is at its default is left out."""
    parts = []
    for field in msgspec.structs.fields(message):
        value = getattr(message, field.name)
        if field.name in ("to", "sender") or value == field.default:
            continue
        if field.name == "entries":
            value = "[" + ", ".join(brief(entry) for entry in value) + "]"
        elif field.name == "snapshot":
            value = value.index
        parts.append(f"{field.name}={value}")
    return f"{type(message).__name__} {' '.join(parts)}"
