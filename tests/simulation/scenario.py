"""One seed: grow a group, torment it for a while with everything the seed drew, then heal it and demand progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from raft.core.limits import Limits
from raft.core.membership import AddLearner, Promote, Remove, UpdateAddr
from raft.core.messages import Stored, first_member
from tests.simulation.checks import Checker, Violation
from tests.simulation.member import Member
from tests.simulation.world import CALM, Faults, World

STORM_MS = 30_000.0
CALM_MS = 60_000.0


@dataclass(frozen=True)
class Outcome:
    seed: int
    steps: int
    elections: int
    committed: int
    members: int
    recovery_ms: float
    """Virtual time from the end of the faults until a leader had committed an entry of its term."""


class Scenario:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.world = World(self.rng, CALM)
        self.checker = Checker()
        self.members = self.checker.members
        # Many tiny Appends on a network that reorders are sent again without end: a cost, and nothing to learn.
        inflight_max, append_bytes_max = self.rng.choice([(1, 1), (4, 1), (4, 200), (64, 200), (64, 1_000_000)])
        self.limits = Limits(
            snapshot_tick=30,
            inflight_max=inflight_max,
            append_bytes_max=append_bytes_max,
            apply_entries_max=self.rng.choice([1, 512]),
        )
        self.next_id = 1
        self.proposed = 0

    def run(self) -> Outcome:
        """Raises Violation naming the seed."""
        try:
            return self._run()
        except AssertionError as error:
            raise Violation(f"seed {self.seed} at {self.world.now:.0f} ms: {error}") from error

    def _run(self) -> Outcome:
        self._grow(self.rng.choice([1, 2, 3, 3, 5, 5]))
        self.world.faults = Faults.draw(self.rng)
        start = self.world.now
        self._every(self.rng.choice([20, 200]), self._work, start + STORM_MS)
        self._every(100, self._torment, start + STORM_MS)
        self.world.run_until(start + STORM_MS)
        recovery_ms = self._heal()
        return Outcome(
            self.seed,
            self.world.steps,
            self.checker.elections,
            max(self.checker.committed),
            len(self.members),
            recovery_ms,
        )

    def _every(self, period_ms: float, action: Callable[[], None], until_ms: float) -> None:
        def again() -> None:
            if self.world.now < until_ms:
                action()
                self.world.later(period_ms, again)

        again()

    def _new_member(self, stored: Stored) -> Member:
        raft_id = self.next_id
        self.next_id += 1
        return Member(raft_id, stored, self.world, self.checker, self.limits)

    def _grow(self, size: int) -> None:
        """A founder, and the others through the front door: learner, then voter."""
        self._new_member(first_member(1, "addr-1"))
        deadline = 120_000.0
        while True:
            leader = self._leader()
            voters = leader.core.membership.voters if leader else {}
            if leader and len(voters) >= size:
                return
            if leader:
                learners = list(leader.core.membership.learners)
                if learners:
                    leader.change(Promote(raft_id=learners[0]))
                else:
                    self._add(leader)
            self.world.run_until(self.world.now + 200)
            if self.world.now > deadline:
                raise Violation("the group did not grow")

    def _add(self, leader: Member) -> None:
        raft_id = self.next_id
        if leader.change(AddLearner(raft_id=raft_id, addr=f"addr-{raft_id}")):
            self._new_member(Stored())

    def _leader(self) -> Member | None:
        """The leader of the highest term, as an outsider would find it."""
        leaders = [member for member in self.members.values() if member.up and member.core.leading]
        return max(leaders, key=lambda member: member.core.term, default=None)

    def _chance(self, per_second: float) -> bool:
        return self.rng.random() < per_second / 10

    def _work(self) -> None:
        for member in self.members.values():
            if member.up and member.core.leading and self.rng.random() < 0.5:
                member.read()  # one that was deposed without knowing, too
            if member.up and member.core.leading and self.rng.random() < 0.8:
                for _ in range(self.rng.choice([1, 1, 5])):
                    self.proposed += 1
                    member.propose(b"%d" % self.proposed)
            elif member.up and self.rng.random() < 0.2:
                member.read()

    def _torment(self) -> None:
        faults, rng = self.world.faults, self.rng
        ids = list(self.members)
        for member in list(self.members.values()):
            if member.up and self._chance(faults.crashes_per_s / len(ids)):
                self._crash(member)
            elif not member.up and self._chance(1.0):
                member.start()
        if self._chance(faults.hunts_per_s):
            self._hunt()
        if self._chance(faults.partitions_per_s):
            self.world.partition(ids)
        if self._chance(0.5):
            self.world.blocked.clear()
        if self._chance(faults.changes_per_s):
            for _ in range(rng.choice([1, 1, 3])):
                self._change()
        if self._chance(faults.spurious_per_s):
            victim, peer = self.members[rng.choice(ids)], rng.choice(ids)
            if victim.up:
                rng.choice([victim.core.connection_lost, victim.core.report_unreachable])(peer)
                if rng.random() < 0.3:
                    victim.transfer(rng.choice([None, *ids]))

    def _hunt(self) -> None:
        """Strike at the leader while it has work under way."""
        leader = self._leader()
        if leader is None:
            return
        if self.rng.random() < 0.5:
            self._crash(leader)
            return
        companion = self.rng.choice(list(self.members)) if len(self.members) > 4 else leader.id
        for other in self.members:
            if other not in (leader.id, companion):
                self.world.blocked |= {(leader.id, other), (other, leader.id)}
                self.world.blocked |= {(companion, other), (other, companion)} if self.rng.random() < 0.5 else set()
        sockets_break = self.rng.random() < 0.7  # then a successor comes while the old leader believes in itself
        for other in self.members.values():
            if sockets_break and other.up and (leader.id, other.id) in self.world.blocked:
                other.core.connection_lost(leader.id)
        for number in range(3):
            leader.propose(b"hunted %d" % number)

    def _crash(self, victim: Member) -> None:
        victim.crash()
        for other in self.members.values():
            if other.up and self.rng.random() < 0.7:
                other.core.connection_lost(victim.id)

    def _change(self) -> None:
        leaders = [member for member in self.members.values() if member.up and member.core.leading]
        if not leaders:
            return
        leader = self.rng.choice(leaders)  # one that was deposed without knowing, too
        membership = leader.core.membership
        choice = self.rng.random()
        anyone = self.rng.choice(sorted(membership.all()))
        if choice < 0.3 and len(membership.all()) < 7:
            self._add(leader)
        elif choice < 0.7 and membership.learners:
            leader.change(Promote(raft_id=self.rng.choice(sorted(membership.learners))))
        elif choice < 0.9:
            leader.change(Remove(raft_id=anyone))
        else:
            leader.change(UpdateAddr(raft_id=anyone, addr=f"moved-{anyone}"))

    def _heal(self) -> float:
        """End all faults. A leader must come, and every member must apply a new entry and answer a read."""
        self.world.faults = CALM
        self.world.blocked.clear()
        start = self.world.now
        for member in self.members.values():
            if not member.up:
                member.start()
        self.world.run_until(start + 10)

        def settled() -> bool:
            leader = self._leader()
            return leader is not None and leader.core.log.commit >= leader.core.leading.start  # type: ignore[union-attr]

        if not self.world.run_until(start + CALM_MS, done=settled):
            raise Violation(f"no working leader {CALM_MS:.0f} ms after the faults ended: {self._describe()}")
        recovery_ms = self.world.now - start
        # A handover, a stalled disk write or a slow message may still be left of the storm.
        self.world.run_until(max(self.world.now, start + 3000) + 1500)
        deadline = self.world.now + CALM_MS
        while not self._agree_once():
            # The leader may have had its own removal in the log, with our entry behind it: ask its successor.
            if self.world.now > deadline:
                raise Violation(f"no new entry was applied everywhere: {self._describe()}")
        leader = self._leader()
        assert leader is not None
        group = [self.members[raft_id] for raft_id in leader.core.membership.all()]
        for member in group:
            member.reads.clear()
            member.read()
        if not self.world.run_until(self.world.now + 5000, done=lambda: not any(member.reads for member in group)):
            raise Violation(f"a read got no answer in calm: {self._describe()}")
        return recovery_ms

    def _agree_once(self) -> bool:
        """Propose at the leader; was it applied by its whole group within ten seconds?"""
        leader = self._leader()
        if leader is None:
            self.world.run_until(self.world.now + 500)
            return False
        leader.propose(b"after the storm")
        target, term = leader.core.log.last, leader.core.term

        def everywhere() -> bool:
            group = [self.members[raft_id] for raft_id in leader.core.membership.all()]
            return all(member.applied >= target for member in group) and self.checker.committed[target] == term

        return self.world.run_until(self.world.now + 10_000, done=everywhere)

    def _describe(self) -> str:
        return "; ".join(
            f"{m.id}: {m.core.soft_state().role.value} term {m.core.term} leader {m.core.leader}"
            f" commit {m.core.log.commit} last {m.core.log.last} applied {m.applied}"
            f" voters {sorted(m.core.membership.voters)}"
            f"{' removed' if m.core.removed else ''}"
            for m in self.members.values()
        )
