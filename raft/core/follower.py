"""A follower: takes the leader's entries, and asks for pre-votes when the leader is silent (thesis §3.4, §3.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.core.messages import (
    NOBODY,
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    Message,
    ReadIndexReply,
    TimeoutNow,
)

if TYPE_CHECKING:
    from raft.core.raft import Raft


class Following:
    def __init__(self, raft: Raft, leader: int) -> None:
        self._raft = raft
        self.leader = leader
        self._lease = leader != NOBODY
        """False once the connection to the leader broke: its silence is explained."""
        self._silent = 0
        self._timeout = raft.rng.randrange(raft.limits.election_tick, 2 * raft.limits.election_tick)

    def hears_leader(self) -> bool:
        """Was the leader heard within the shortest election timeout?"""
        return self._lease and self._silent < self._raft.limits.election_tick

    def voted(self) -> None:
        """Having voted, give the candidate time."""
        self._silent = 0

    def tick(self) -> None:
        self._silent += 1
        alone = set(self._raft.membership.voters) == {self._raft.id}
        if (self._silent >= self._timeout or alone) and self._raft.may_campaign():
            self._raft.campaign(pre=not alone)

    def connection_lost(self, peer: int) -> None:
        if peer == self.leader and self._lease:
            self._lease = False
            self._silent = max(self._silent, self._timeout - self._raft.rng.randint(1, 3))

    def step(self, message: Message) -> None:
        if isinstance(message, Append | Heartbeat | InstallSnapshot):
            self.leader, self._lease, self._silent = message.sender, True, 0
        if isinstance(message, Append):
            self._append(message)
        elif isinstance(message, Heartbeat):
            # Only as far as the leader knows that this log equals its own (it sends min(match, commit)).
            self._raft.log.commit_to(message.commit)
            self._raft.send(
                HeartbeatReply(to=message.sender, sender=self._raft.id, term=self._raft.term, read=message.read)
            )
        elif isinstance(message, InstallSnapshot):
            self._install(message)
        elif isinstance(message, TimeoutNow):
            if self._raft.may_campaign():
                self._raft.campaign(pre=False, transfer=True)
        elif isinstance(message, ReadIndexReply):
            self._raft.read_ready(message.context, message.index)

    def _append(self, message: Append) -> None:
        log = self._raft.log
        if message.prev_index < log.commit:
            self._reply(message.sender, log.commit)
            return
        matched = log.accept(message.prev_index, message.prev_term, message.entries)
        if matched is not None:
            log.commit_to(min(message.commit, matched))
            self._reply(message.sender, matched)
            return
        hint_index, hint_term = log.last_possible_match(message.prev_index, message.prev_term)
        self._raft.send(
            AppendReply(
                to=message.sender,
                sender=self._raft.id,
                term=self._raft.term,
                index=message.prev_index,
                reject=True,
                hint_index=hint_index,
                hint_term=hint_term,
            )
        )

    def _install(self, message: InstallSnapshot) -> None:
        log, snapshot = self._raft.log, message.snapshot
        if snapshot.index > log.commit:
            if log.term(snapshot.index) == snapshot.term:
                log.commit_to(snapshot.index)  # the log holds it all: keep what follows (thesis §5.1)
            else:
                log.restore(snapshot)
        self._reply(message.sender, log.commit)

    def _reply(self, leader: int, index: int) -> None:
        self._raft.send(AppendReply(to=leader, sender=self._raft.id, term=self._raft.term, index=index))
