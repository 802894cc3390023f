"""What a member tells of itself and of the others."""

from __future__ import annotations

import msgspec

from raft.core.messages import Role
from raft.core.raft import Raft


class Member(msgspec.Struct, frozen=True, kw_only=True):
    addr: str
    learner: bool
    match: int
    """How far its log is known to equal the leader's (0 on members that don't lead)."""
    recent_active: bool
    """Heard within an election timeout (as the leader knows it; elsewhere only the leader and this one are known)."""
    is_leader: bool


class LeadershipChange(msgspec.Struct, frozen=True, kw_only=True):
    """A new `term` with the same leader is a change too: what ran for the old term must end."""

    term: int
    leader_id: int
    leader_addr: str
    is_leader: bool
    """This member leads and has applied everything that was committed before its term."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    raft_id: int
    role: Role
    term: int
    leader_id: int
    leader_addr: str
    is_leader: bool
    commit: int
    applied: int
    removed: bool
    """This member learned that it was removed from the group."""
    members: dict[int, Member]
    former: frozenset[int]
    """Ids that were members once and never will be again."""


def leadership_of(core: Raft, applied: int) -> LeadershipChange:
    """Who leads, as this member knows it; itself only once it has applied its term's no-op."""
    return LeadershipChange(
        term=core.term,
        leader_id=core.leader,
        leader_addr=core.membership.addr(core.leader) or "",
        is_leader=core.leading is not None and applied >= core.leading.start,
    )


def status_of(core: Raft, applied: int, is_leader: bool) -> Status:
    """A picture of this moment."""
    leading = core.leading
    active = leading.active() if leading is not None else {core.leader, core.id}
    matches = {peer: progress.match for peer, progress in leading.progress.items()} if leading else {}
    if leading is not None:
        matches[core.id] = core.log.last
    members = {
        raft_id: Member(
            addr=addr,
            learner=raft_id in core.membership.learners,
            match=matches.get(raft_id, 0),
            recent_active=raft_id in active,
            is_leader=raft_id == core.leader,
        )
        for raft_id, addr in core.membership.all().items()
    }
    return Status(
        raft_id=core.id,
        role=core.soft_state().role,
        term=core.term,
        leader_id=core.leader,
        leader_addr=core.membership.addr(core.leader) or "",
        is_leader=is_leader,
        commit=core.log.commit,
        applied=applied,
        removed=core.removed,
        members=members,
        former=frozenset(core.membership.removed),
    )
