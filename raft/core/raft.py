"""One member: its term, vote, log and role; what all roles share; and what the shell takes out.

A role (follower.py, candidate.py, leader.py) is an object with `tick()` and `step(message)`; it is replaced when the
role changes, so nothing of an old role can be left behind. The rules about terms and votes are here, as they
hold in every role.

Invariants (thesis §3): the term never goes back; one vote a term; both are handed out for persistence before any
message that follows from them. Messages of a leader whose term is on disk already need not wait for its own
disk (thesis §10.2.1): they come out of `take_early`, all others in a `Ready`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.core.candidate import Campaign
from raft.core.follower import Following
from raft.core.leader import Leadership
from raft.core.limits import Limits
from raft.core.log import RaftLog
from raft.core.membership import Change, Membership
from raft.core.messages import (
    NOBODY,
    Append,
    AppendReply,
    Entry,
    HardState,
    Heartbeat,
    InstallSnapshot,
    Message,
    PreVote,
    PreVoteReply,
    ReadIndex,
    ReadState,
    Ready,
    Removed,
    Role,
    Snapshot,
    SoftState,
    Stored,
    Vote,
    VoteReply,
)
from raft.errors import NotLeader

if TYPE_CHECKING:
    from random import Random


class Raft:
    """Inputs: tick, step, propose, propose_change, read_index, transfer, connection_lost, report_*.
    Outputs: take_early at any time; ready, then advance when its work is done."""

    def __init__(self, *, raft_id: int, limits: Limits, rng: Random, stored: Stored) -> None:
        self.id = raft_id
        self.limits = limits.validate()
        self.rng = rng
        self.term = stored.hard_state.term
        self.vote = stored.hard_state.vote
        self.log = RaftLog(stored)
        self.removed = False
        self._durable = HardState(term=self.term, vote=self.vote)
        self._early: list[Message] = []
        self._after: list[Message] = []
        self._reads: list[ReadState] = []
        self._told: SoftState | None = None
        self._outstanding = False
        self.role: Following | Campaign | Leadership = Following(self, NOBODY)

    # What roles and shells ask

    @property
    def membership(self) -> Membership:
        """The one that counts: the latest in the log."""
        return self.log.history.latest

    @property
    def leader(self) -> int:
        """The leader of this term as far as known, or NOBODY."""
        return self.role.leader

    @property
    def leading(self) -> Leadership | None:
        return self.role if isinstance(self.role, Leadership) else None

    def may_campaign(self) -> bool:
        """A voter, or one whose removal is not committed yet: it may hold the only log that can win (thesis §4.2.2)."""
        if self.removed:
            return False
        return self.id in self.membership.voters or self.id in self.log.history.at(self.log.commit).voters

    # Inputs

    def tick(self) -> None:
        """One unit of time passed."""
        self.role.tick()

    def propose(self, data: bytes) -> Entry:
        """Append one entry of data; it counts once it comes out committed with the same term.

        Raises:
            NotLeader: this member does not lead.
            Unavailable: too much is uncommitted, or leadership is being transferred.
            InvalidArgument: larger than `proposal_bytes_max`.
        """
        return self._must_lead().propose(data)

    def propose_change(self, change: Change) -> Entry:
        """Append a membership change. Raises as `propose`, and what `membership.changed` raises."""
        return self._must_lead().propose_change(change)

    def read_index(self, context: int) -> None:
        """Ask for a read point; it comes out as a ReadState, or not at all (leader lost: ask again).

        Raises NotLeader when no leader is known.
        """
        if self.leading is not None:
            self.leading.read_index(self.id, context)
        elif self.leader == NOBODY:
            raise NotLeader
        else:
            self.send(ReadIndex(to=self.leader, sender=self.id, term=self.term, context=context))

    def transfer(self, to: int | None) -> None:
        """Hand leadership to `to`, or to the voter that is furthest. Raises NotLeader, Unavailable, NotFound."""
        self._must_lead().transfer(to)

    def connection_lost(self, peer: int) -> None:
        """The connection to `peer` broke. If it leads, its lease is over and the next pre-vote is near."""
        if isinstance(self.role, Following):
            self.role.connection_lost(peer)

    def report_unreachable(self, peer: int) -> None:
        """Messages to `peer` were dropped."""
        if self.leading is not None:
            self.leading.report_unreachable(peer)

    def report_snapshot(self, peer: int, *, delivered: bool) -> None:
        """The transport is done with a snapshot."""
        if self.leading is not None:
            self.leading.report_snapshot(peer, delivered=delivered)

    def step(self, message: Message) -> None:
        """Take a message of another member."""
        if message.to != self.id:
            return
        if isinstance(message, Removed):
            self.removed = True
            return
        if isinstance(message, PreVote | Vote):
            self._tell_removed(message.sender)
        if message.term > self.term:
            if not self._newer_term(message):
                return
        elif message.term < self.term:
            self._older_term(message)
            return
        if isinstance(message, PreVote | Vote):
            self._answer_vote(message)
        else:
            self.role.step(message)

    def _newer_term(self, message: Message) -> bool:
        """Follow a higher term. False when the message is to be ignored."""
        if isinstance(message, PreVote | Vote):
            forced = isinstance(message, Vote) and message.transfer
            if not forced and self.role.hears_leader():
                return False  # thesis §4.2.3: who hears a leader does not help to depose it
            if isinstance(message, PreVote):
                return True
        if isinstance(message, PreVoteReply) and message.granted:
            return True
        leads = isinstance(message, Append | Heartbeat | InstallSnapshot)
        self.become_follower(message.term, message.sender if leads else NOBODY)
        return True

    def _older_term(self, message: Message) -> None:
        """Tell who lags: a deposed leader steps down, a candidate learns the term. Other messages are stale."""
        if isinstance(message, Append | Heartbeat | InstallSnapshot):
            self.send(AppendReply(to=message.sender, sender=self.id, term=self.term, index=0, reject=True))
        elif isinstance(message, PreVote):
            self.send(PreVoteReply(to=message.sender, sender=self.id, term=self.term, granted=False))
        elif isinstance(message, Vote):
            self.send(VoteReply(to=message.sender, sender=self.id, term=self.term, granted=False))

    def _tell_removed(self, sender: int) -> None:
        if sender in self.log.history.at(self.log.commit).removed:
            self.send(Removed(to=sender, sender=self.id, term=self.term))

    def _answer_vote(self, message: PreVote | Vote) -> None:
        """Thesis §3.4, §3.6.1, §9.6. Learners and strangers answer too: they may not know yet that they are voters."""
        new_enough = self.log.no_newer_than(message.last_index, message.last_term)
        if isinstance(message, PreVote):
            granted = new_enough and message.term > self.term
            term = message.term if granted else self.term
            self.send(PreVoteReply(to=message.sender, sender=self.id, term=term, granted=granted))
            return
        free = self.vote == message.sender or (self.vote == NOBODY and self.leader == NOBODY)
        granted = new_enough and free
        if granted:
            self.vote = message.sender
            self.role.voted()
        self.send(VoteReply(to=message.sender, sender=self.id, term=self.term, granted=granted))

    def _must_lead(self) -> Leadership:
        if self.leading is None:
            raise NotLeader(self.leader, self.membership.addr(self.leader) or "")
        return self.leading

    # Changes of role

    def become_follower(self, term: int, leader: int) -> None:
        self._enter_term(term)
        self.role = Following(self, leader)

    def campaign(self, *, pre: bool, transfer: bool = False) -> None:
        """Ask for pre-votes in the next term, or enter it and ask for votes."""
        if not pre:
            self._enter_term(self.term + 1)
            self.vote = self.id
        self.role = Campaign(self, pre=pre)
        self.role.begin(transfer=transfer)

    def become_leader(self) -> None:
        self.role = Leadership(self)
        self.role.begin()

    def _enter_term(self, term: int) -> None:
        assert term >= self.term
        if term > self.term:
            self.term, self.vote = term, NOBODY

    # Outputs

    def send(self, message: Message) -> None:
        """Queue a message: a leader's at once, if its term is on disk; else after what is to be persisted."""
        early = self.leading is not None and self._durable.term == self.term
        (self._early if early else self._after).append(message)

    def read_ready(self, context: int, index: int) -> None:
        self._reads.append(ReadState(context=context, index=index))

    def take_early(self) -> list[Message]:
        """Messages that may be sent now, whatever is still being persisted. To be asked after every input."""
        if self.leading is not None:
            self.leading.flush()
        messages, self._early = self._early, []
        return messages

    def has_ready(self) -> bool:
        """Is there work, and is the work before it done?"""
        return not self._outstanding and bool(
            self._after
            or self._reads
            or self.log.has_unstable()
            or self.log.handed < self.log.commit
            or self._state_to_save() is not None
            or self.soft_state() != self._told
        )

    def _state_to_save(self) -> HardState | None:
        changed = (self.term, self.vote) != (self._durable.term, self._durable.vote)
        if not changed and not self.log.has_unstable():
            return None
        return HardState(term=self.term, vote=self.vote, commit=self.log.commit)

    def soft_state(self) -> SoftState:
        """Role, leader and term as of now."""
        names = {Following: Role.FOLLOWER, Leadership: Role.LEADER}
        if isinstance(self.role, Campaign):
            role = Role.PRE_CANDIDATE if self.role.pre else Role.CANDIDATE
        else:
            role = names[type(self.role)]
        return SoftState(role=role, leader=self.leader, term=self.term, removed=self.removed)

    def ready(self) -> Ready:
        """The next batch. Nothing else comes out before `advance`; inputs may go on meanwhile."""
        assert not self._outstanding
        self._outstanding = True
        hard_state = self._state_to_save()
        snapshot, entries = self.log.take_unstable()
        soft, told = self.soft_state(), self._told
        self._told = soft
        messages, self._after = tuple(self._after), []
        reads, self._reads = tuple(self._reads), []
        return Ready(
            hard_state=hard_state,
            snapshot=snapshot,
            entries=entries,
            messages=messages,
            committed=self.log.take_committed(self.limits.apply_entries_max),
            reads=reads,
            soft_state=soft if soft != told else None,
        )

    def advance(self) -> None:
        """The work of the last `ready` is done: persisted, sent, applied."""
        assert self._outstanding
        self._outstanding = False

    def persisted(self, ready: Ready) -> None:
        """The state of `ready` is on disk (called once, before its messages are sent)."""
        if ready.hard_state is not None:
            self._durable = ready.hard_state
            self.log.persisted(ready.snapshot)
            if self.leading is not None:
                self.leading.persisted()

    def compact(self, snapshot: Snapshot, keep: int) -> None:
        """A snapshot of the applied state is on disk; `keep` entries before it stay for slow followers."""
        self.log.compact(snapshot, keep)
