"""What must hold at every moment, whatever happens (thesis, figure 3.2, and the promises to callers)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.core import quorum
from raft.core.messages import AppendReply, Entry, EntryKind, Message, VoteReply

if TYPE_CHECKING:
    from tests.simulation.member import Member


class Violation(AssertionError):
    """An invariant is broken."""


def demand(condition: bool, what: str) -> None:
    if not condition:
        raise Violation(what)


class Checker:
    """Sees all members at once."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self.leaders: dict[int, int] = {}
        self.entries: dict[tuple[int, int], tuple[EntryKind, bytes, int]] = {}
        self.committed: dict[int, int] = {}
        """Index to term."""
        self.states: dict[int, bytes] = {0: b""}
        """Digest of the state machine after each index."""
        self.votes: dict[tuple[int, int], int] = {}
        self.applied_anywhere = 0
        self.elections = 0

    def appended(self, member: Member, entries: tuple[Entry, ...]) -> None:
        """Log matching: an (index, term) has one content and one predecessor everywhere."""
        for entry in entries:
            before = member.core.log.term(entry.index - 1)
            if before is None:
                continue  # cut off or compacted while it was persisted
            value = (entry.kind, entry.data, before)
            if member.core.log.term(entry.index) == entry.term:
                known = self.entries.setdefault((entry.index, entry.term), value)
                demand(known == value, f"log matching: entry {entry.index} of term {entry.term} differs")

    def stepped(self, member: Member) -> None:
        """After every input to a member."""
        core = member.core
        demand(core.term >= member.term_seen, f"the term of {core.id} went back")
        member.term_seen = core.term
        if core.leading is not None and core.term not in self.leaders:
            self.elections += 1
            self.leaders[core.term] = core.id
            self._leader_is_complete(member)
        if core.leading is not None:
            demand(self.leaders[core.term] == core.id, f"two leaders in term {core.term}")
        for index in range(member.commit_seen + 1, core.log.commit + 1):
            term = core.log.term(index)
            if term is None:
                continue
            if index not in self.committed:
                self._is_durable(member, index, term)
            demand(self.committed.setdefault(index, term) == term, f"entry {index} was committed with two terms")
        member.commit_seen = core.log.commit

    def _leader_is_complete(self, member: Member) -> None:
        log = member.core.log
        for index, term in self.committed.items():
            if index >= log.first:
                demand(log.term(index) == term, f"leader {member.core.id} lacks committed entry {index}")

    def _is_durable(self, member: Member, index: int, term: int) -> None:
        """The first to commit an entry leads, and a majority has it on disk by then."""
        demand(
            member.core.log.commit == 1 or self.leaders.get(member.core.term) == member.core.id,
            "committed by no leader",
        )
        holders = [peer for peer, other in self.members.items() if other.disk.holds(index, term)]
        voters = member.core.membership.voters
        latest = member.core.log.commit
        if index == latest:
            demand(latest == 1 or term == member.core.term, f"entry {index} of term {term} was committed by counting")
            demand(quorum.has_majority(voters, holders), f"entry {index} committed and on disk only at {holders}")

    def sent(self, member: Member, message: Message) -> None:
        """What a message promises is on disk."""
        disk = member.disk.stored
        if isinstance(message, VoteReply) and message.granted:
            key = (member.core.id, message.term)
            demand(self.votes.setdefault(key, message.to) == message.to, f"{key[0]} voted twice in term {key[1]}")
            demand(
                disk.hard_state.term > message.term
                or (disk.hard_state.term, disk.hard_state.vote) == (message.term, message.to),
                "a vote was sent before it was on disk",
            )
        elif isinstance(message, AppendReply) and not message.reject:
            last = disk.base_index + len(disk.entries)
            demand(
                last >= message.index or disk.hard_state.term > message.term,
                f"entry {message.index} was acknowledged, the disk ends at {last}",
            )

    def applied(self, member: Member, index: int, digest: bytes) -> None:
        """State machine safety."""
        demand(index == member.applied + 1, f"applied {index} after {member.applied}")
        demand(self.states.setdefault(index, digest) == digest, f"state machines differ at {index}")
        self.applied_anywhere = max(self.applied_anywhere, index)

    def restored(self, member: Member, index: int, digest: bytes) -> None:
        demand(index > member.applied or member.fresh, f"restored to {index} after {member.applied}")
        demand(self.states.get(index) == digest, f"the snapshot at {index} holds another state")

    def acknowledged(self, index: int, term: int) -> None:
        """A proposer was told that its entry counts."""
        demand(self.committed.get(index) == term, f"acknowledged entry {index} of term {term} is not committed")

    def read(self, index: int, applied_at_request: int) -> None:
        """Linearizable reads: a read point is not before anything that had been applied anywhere."""
        demand(index >= applied_at_request, f"read point {index}, but {applied_at_request} was applied before")
