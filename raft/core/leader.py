"""A leader: replicates, commits, proves that it still leads, changes the membership, hands over.

Invariants: it commits by counting only entries of its own term (thesis §3.6.2); its own disk is one vote among
the others (its match is what is stable); one membership change at a time, and the first one only after it has
committed an entry of its term (thesis §4.1 as corrected); it steps down when a majority is silent.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from api.errors import Conflict, InvalidArgument, NotFound, Unavailable
from raft.core import membership, quorum
from raft.core.membership import Change
from raft.core.messages import (
    NOBODY,
    Append,
    AppendReply,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    Message,
    ReadIndex,
    ReadIndexReply,
    TimeoutNow,
)
from raft.core.progress import Flow, Progress
from raft.core.reads import PendingReads
from raft.errors import HandingOver

if TYPE_CHECKING:
    from raft.core.raft import Raft


def _size(data: bytes) -> int:
    """What an entry counts against the bound on uncommitted bytes: empty ones count too."""
    return len(data) + 64


class Leadership:
    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self.leader = raft.id
        self.start = raft.log.last + 1
        """Index of the no-op that begins the term: once applied, local state holds all that was committed before."""
        self.progress = {peer: Progress(self.start) for peer in raft.membership.all() if peer != raft.id}
        self._leaving: set[int] = set()
        """Removed peers that still get the log, so that they learn of it; until the removal is committed."""
        self._reads = PendingReads(raft.id)
        self._early_reads: list[tuple[int, int]] = []
        self._uncommitted: deque[tuple[int, int]] = deque()
        self._uncommitted_bytes = 0
        self._news = False
        """There are new entries, or a new commit index, that were not offered to everybody."""
        self._heartbeat_age = 0
        self._quorum_age = 0
        self._transferee = NOBODY
        self._transfer_age = 0

    def begin(self) -> None:
        self._append(EntryKind.NOOP, b"")

    def hears_leader(self) -> bool:
        return True

    def voted(self) -> None:
        raise AssertionError("a leader has given its vote to itself")

    def tick(self) -> None:
        limits = self._raft.limits
        for peer, progress in self.progress.items():
            progress.silent += 1
            progress.snapshot_age += 1
            if progress.flow is Flow.SNAPSHOT and progress.snapshot_age > limits.snapshot_tick:
                self.report_snapshot(peer, delivered=False)
        self._quorum_age += 1
        if self._quorum_age >= limits.election_tick:
            self._quorum_age = 0
            if not quorum.has_majority(self._raft.membership.voters, self.active()):
                self._raft.become_follower(self._raft.term, NOBODY)
                return
        if self._transferee:
            self._transfer_age += 1
            if self._transfer_age >= limits.election_tick or self._transferee not in self.progress:
                self._transferee = NOBODY
            else:
                self._maybe_hand_over(self._transferee)
        self._heartbeat_age += 1
        if self._heartbeat_age >= limits.heartbeat_tick:
            self._send_heartbeats()

    def active(self) -> set[int]:
        """Members heard within an election timeout, and this one."""
        heard = {peer for peer, progress in self.progress.items() if progress.silent <= self._raft.limits.election_tick}
        return heard | {self._raft.id}

    def step(self, message: Message) -> None:
        progress = self.progress.get(message.sender)
        if progress is None:
            return
        progress.silent = 0
        if isinstance(message, AppendReply):
            if message.reject:
                self._rejected(message, progress)
            else:
                self._accepted(message, progress)
        elif isinstance(message, HeartbeatReply):
            progress.heard(self._raft.limits.inflight_max)
            if progress.match < self._raft.log.last:
                self._send_append(message.sender, even_empty=True)
            self._reads.acknowledged(message.sender, message.read)
            self._answer_reads()
        elif isinstance(message, ReadIndex):
            self.read_index(message.sender, message.context)

    # Proposals

    def propose(self, data: bytes) -> Entry:
        limits = self._raft.limits
        if len(data) > limits.proposal_bytes_max:
            raise InvalidArgument(f"the change is too large: {len(data)} of at most {limits.proposal_bytes_max} bytes")
        if self._transferee:
            raise HandingOver
        if self._uncommitted_bytes + _size(data) > limits.uncommitted_bytes_max and self._uncommitted:
            raise Unavailable("too many changes wait for agreement")
        return self._append(EntryKind.DATA, data)

    def propose_change(self, change: Change) -> Entry:
        log = self._raft.log
        if self._transferee:
            raise HandingOver
        if log.history.latest_index > log.commit or log.commit < self.start:
            raise Unavailable("another membership change is under way")
        after = membership.changed(self._raft.membership, change)
        if isinstance(change, membership.Promote):
            self._must_be_caught_up(change.raft_id)
        if isinstance(change, membership.Remove) and not quorum.has_majority(after.voters, self.active()):
            raise Conflict("can't remove member from the raft: this would result in a loss of quorum")
        return self._append(EntryKind.CHANGE, membership.encode(after))

    def _must_be_caught_up(self, learner: int) -> None:
        progress = self.progress[learner]
        lag = self._raft.log.last - progress.match
        if progress.flow is not Flow.REPLICATE or lag > self._raft.limits.promote_lag_max:
            raise Unavailable(f"raft member {learner:x} has not caught up with the log yet")

    def _append(self, kind: EntryKind, data: bytes) -> Entry:
        entry = self._raft.log.append(self._raft.term, kind, data)
        self._uncommitted.append((entry.index, _size(data)))
        self._uncommitted_bytes += _size(data)
        if kind is EntryKind.CHANGE:
            self._follow_membership()
        self._news = True
        return entry

    def _follow_membership(self) -> None:
        members = self._raft.membership.all()
        for peer in members:
            if peer != self._raft.id and peer not in self.progress:
                self.progress[peer] = Progress(self._raft.log.last)
        self._leaving = {peer for peer in self.progress if peer not in members}

    # Replication

    def flush(self) -> None:
        """Tell everybody what is new, once for all that was proposed and committed since the last time."""
        if self._news:
            self._news = False
            for peer in self.progress:
                self._send_append(peer, even_empty=True)

    def _send_append(self, peer: int, *, even_empty: bool) -> bool:
        """Send what comes next to `peer`, if its flow allows. Returns whether something went out."""
        raft, progress = self._raft, self.progress[peer]
        if not progress.may_send(raft.limits.inflight_max):
            return False
        prev_index = progress.next - 1
        prev_term = raft.log.term(prev_index)
        if prev_term is None:
            return self._send_snapshot(peer, progress)
        entries = raft.log.slice(progress.next, raft.limits.append_bytes_max)
        if not entries and not even_empty:
            return False
        raft.send(
            Append(
                to=peer,
                sender=raft.id,
                term=raft.term,
                prev_index=prev_index,
                prev_term=prev_term,
                commit=raft.log.commit,
                entries=entries,
            )
        )
        progress.sent(prev_index + len(entries), len(entries))
        return True

    def _send_snapshot(self, peer: int, progress: Progress) -> bool:
        if progress.silent > self._raft.limits.election_tick:
            return False  # not to a peer that is away
        snapshot = self._raft.log.snapshot
        progress.sent_snapshot(snapshot.index)
        self._raft.send(InstallSnapshot(to=peer, sender=self._raft.id, term=self._raft.term, snapshot=snapshot))
        return True

    def _accepted(self, message: AppendReply, progress: Progress) -> None:
        news = progress.accepted(message.index, self._raft.log.first)
        if news and self._maybe_commit() and self._raft.role is not self:
            return
        while message.sender in self.progress and self._send_append(message.sender, even_empty=False):
            pass
        self._maybe_hand_over(message.sender)

    def _rejected(self, message: AppendReply, progress: Progress) -> None:
        may_match, _ = self._raft.log.last_possible_match(message.hint_index, message.hint_term)
        if progress.rejected(message.index, may_match):
            self._send_append(message.sender, even_empty=True)

    def report_unreachable(self, peer: int) -> None:
        if peer in self.progress:
            self.progress[peer].unreachable()

    def report_snapshot(self, peer: int, *, delivered: bool) -> None:
        if peer in self.progress:
            self.progress[peer].snapshot_over(delivered=delivered)

    # Commitment

    def persisted(self) -> None:
        """Our own disk has caught up."""
        self._maybe_commit()

    def _maybe_commit(self) -> bool:
        """Commit what a majority holds, if it is of this term. Returns whether it grew."""
        log = self._raft.log
        holds = {peer: progress.match for peer, progress in self.progress.items()} | {self._raft.id: log.stable}
        index = quorum.agreed_index(self._raft.membership.voters, holds)
        if log.term(index) != self._raft.term or not log.commit_to(index):
            return False
        while self._uncommitted and self._uncommitted[0][0] <= log.commit:
            self._uncommitted_bytes -= self._uncommitted.popleft()[1]
        early, self._early_reads = self._early_reads, []
        for requester, context in early:
            self.read_index(requester, context)
        self._news = True
        if log.history.latest_index <= log.commit:
            self._membership_committed()
        return True

    def _membership_committed(self) -> None:
        self.flush()
        for peer in self._leaving:
            del self.progress[peer]
        self._leaving = set()
        if self._raft.id not in self._raft.membership.voters:
            # Removed by its own entry: wake a successor and step down (thesis §4.2.2).
            self._send_timeout_now(self._furthest())
            self._raft.become_follower(self._raft.term, NOBODY)

    # Reads

    def read_index(self, requester: int, context: int) -> None:
        log = self._raft.log
        if log.commit < self.start:
            self._early_reads.append((requester, context))  # what others committed is not known yet
            return
        self._reads.add(requester, context, log.commit)
        self._send_heartbeats()
        self._answer_reads()

    def _answer_reads(self) -> None:
        for requester, context, index in self._reads.confirmed(self._raft.membership.voters):
            if requester == self._raft.id:
                self._raft.read_ready(context, index)
            else:
                self._raft.send(
                    ReadIndexReply(
                        to=requester, sender=self._raft.id, term=self._raft.term, context=context, index=index
                    )
                )

    def _send_heartbeats(self) -> None:
        self._heartbeat_age = 0
        raft = self._raft
        for peer, progress in self.progress.items():
            commit = min(progress.match, raft.log.commit)
            raft.send(Heartbeat(to=peer, sender=raft.id, term=raft.term, commit=commit, read=self._reads.round))

    # Handing over

    def transfer(self, to: int | None) -> None:
        target = to if to is not None else self._furthest()
        if target == self._raft.id:
            return
        if target not in self._raft.membership.voters:
            raise NotFound("there is no other voter to hand leadership to")
        self._transferee, self._transfer_age = target, 0
        self._send_append(target, even_empty=False)
        self._maybe_hand_over(target)

    def _furthest(self) -> int:
        voters = [peer for peer in self._raft.membership.voters if peer in self.progress]
        return max(voters, key=lambda peer: (peer in self.active(), self.progress[peer].match), default=NOBODY)

    def _maybe_hand_over(self, peer: int) -> None:
        if peer == self._transferee and self.progress[peer].match == self._raft.log.last:
            self._send_timeout_now(peer)

    def _send_timeout_now(self, peer: int) -> None:
        if peer != NOBODY:
            self._raft.send(TimeoutNow(to=peer, sender=self._raft.id, term=self._raft.term))
