"""Who is in the group: voters, learners, and ids that are gone for good.

Invariant: two consecutive memberships of a log differ in one voter at most, so any two of their majorities
meet (thesis §4.1). A membership counts from the moment its entry is appended, committed or not; when the entry
is cut off, the one before it counts again. A change entry holds the whole membership that results.
"""

from __future__ import annotations

import msgspec

from api.errors import Conflict, InvalidArgument, NotFound


class Membership(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Addresses by raft id."""

    voters: dict[int, str] = {}
    learners: dict[int, str] = {}
    """They get the log and have no vote."""
    removed: tuple[int, ...] = ()
    """Ids that were members once; never used again."""

    def addr(self, raft_id: int) -> str | None:
        """Where a member listens; None when it is no member."""
        return self.voters.get(raft_id, self.learners.get(raft_id))

    def all(self) -> dict[int, str]:
        """Voters and learners."""
        return self.voters | self.learners


class AddLearner(msgspec.Struct, frozen=True, kw_only=True):
    raft_id: int
    addr: str


class Promote(msgspec.Struct, frozen=True, kw_only=True):
    """Make a learner a voter."""

    raft_id: int


class Remove(msgspec.Struct, frozen=True, kw_only=True):
    raft_id: int


class UpdateAddr(msgspec.Struct, frozen=True, kw_only=True):
    raft_id: int
    addr: str


Change = AddLearner | Promote | Remove | UpdateAddr


def changed(now: Membership, change: Change) -> Membership:
    """The membership after one change.

    Raises:
        Conflict: the member is there already, its id was used before, or it is the last voter.
        NotFound: no such member.
        InvalidArgument: an id that is not positive.
    """
    raft_id = change.raft_id
    if raft_id <= 0:
        raise InvalidArgument(f"raft id {raft_id} is not positive")
    if isinstance(change, AddLearner):
        if now.addr(raft_id) is not None:
            raise Conflict(f"raft member {raft_id:x} is in the group already")
        if raft_id in now.removed:
            raise Conflict(f"raft member {raft_id:x} was removed; its id can't be used again")
        return msgspec.structs.replace(now, learners=now.learners | {raft_id: change.addr})
    if now.addr(raft_id) is None:
        raise NotFound(f"raft member {raft_id:x} is not in the group")
    voters, learners = dict(now.voters), dict(now.learners)
    if isinstance(change, Promote):
        if raft_id in voters:
            raise Conflict(f"raft member {raft_id:x} is a voter already")
        voters[raft_id] = learners.pop(raft_id)
        return Membership(voters=voters, learners=learners, removed=now.removed)
    if isinstance(change, UpdateAddr):
        (voters if raft_id in voters else learners)[raft_id] = change.addr
        return Membership(voters=voters, learners=learners, removed=now.removed)
    voters.pop(raft_id, None)
    learners.pop(raft_id, None)
    if not voters:
        raise Conflict("the last voter of the raft group can't be removed")
    return Membership(voters=voters, learners=learners, removed=(*now.removed, raft_id))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Membership)


def encode(membership: Membership) -> bytes:
    """The data of a change entry."""
    return _encoder.encode(membership)


def decode(data: bytes) -> Membership:
    """The membership in a change entry's data."""
    return _decoder.decode(data)


class History:
    """The memberships of one log, by the index that brought them; the first is that of the snapshot."""

    def __init__(self, index: int, membership: Membership) -> None:
        self._steps: list[tuple[int, Membership]] = [(index, membership)]

    @property
    def latest(self) -> Membership:
        return self._steps[-1][1]

    @property
    def latest_index(self) -> int:
        return self._steps[-1][0]

    def at(self, index: int) -> Membership:
        """The membership as of `index` (which is not before the snapshot)."""
        return next(membership for since, membership in reversed(self._steps) if since <= index)

    def append(self, index: int, membership: Membership) -> None:
        assert index > self.latest_index
        self._steps.append((index, membership))

    def truncate(self, index: int) -> None:
        """Forget what came at `index` or later."""
        assert index > self._steps[0][0]
        while self.latest_index >= index:
            self._steps.pop()

    def compact(self, index: int) -> None:
        """`index` is the snapshot's now."""
        self._steps = [(index, self.at(index))] + [step for step in self._steps if step[0] > index]
