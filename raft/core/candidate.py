"""A candidate, first for pre-votes that change nothing, then for real votes (thesis §3.4, §9.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.core import quorum
from raft.core.messages import (
    NOBODY,
    Append,
    Heartbeat,
    InstallSnapshot,
    Message,
    PreVote,
    PreVoteReply,
    Vote,
    VoteReply,
)

if TYPE_CHECKING:
    from raft.core.raft import Raft


class Campaign:
    leader = NOBODY

    def __init__(self, raft: Raft, *, pre: bool) -> None:
        self._raft = raft
        self.pre = pre
        self._votes = {raft.id}
        self._refused: set[int] = set()
        self._age = 0
        self._timeout = raft.rng.randrange(raft.limits.election_tick, 2 * raft.limits.election_tick)

    def begin(self, *, transfer: bool) -> None:
        """Ask every other voter. Our own vote counts only if we are a voter."""
        raft = self._raft
        for peer in raft.membership.voters:
            if peer == raft.id:
                continue
            ends = {"last_index": raft.log.last, "last_term": raft.log.last_term}
            if self.pre:
                raft.send(PreVote(to=peer, sender=raft.id, term=raft.term + 1, **ends))
            else:
                raft.send(Vote(to=peer, sender=raft.id, term=raft.term, transfer=transfer, **ends))
        self._count()

    def hears_leader(self) -> bool:
        return False

    def voted(self) -> None:
        """A pre-candidate gave its vote to another: let that one try."""
        self._raft.become_follower(self._raft.term, NOBODY)

    def tick(self) -> None:
        self._age += 1
        if self._age >= self._timeout:
            if self._raft.may_campaign():
                self._raft.campaign(pre=True)
            else:
                self._raft.become_follower(self._raft.term, NOBODY)

    def step(self, message: Message) -> None:
        raft = self._raft
        if isinstance(message, PreVoteReply) and self.pre:
            self._answer(message.sender, message.granted and message.term == raft.term + 1)
        elif isinstance(message, VoteReply) and not self.pre:
            self._answer(message.sender, message.granted)
        elif isinstance(message, Append | Heartbeat | InstallSnapshot):
            raft.become_follower(raft.term, message.sender)
            raft.role.step(message)

    def _answer(self, voter: int, granted: bool) -> None:
        (self._votes if granted else self._refused).add(voter)
        self._count()

    def _count(self) -> None:
        raft = self._raft
        voters = raft.membership.voters
        if quorum.has_majority(voters, self._votes):
            if self.pre:
                raft.campaign(pre=False)
            else:
                raft.become_leader()
        elif quorum.has_majority(voters, self._refused):
            raft.become_follower(raft.term, NOBODY)
