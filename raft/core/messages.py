"""What members say to each other, what is stored, and what a `Ready` holds.

Sent as MessagePack; they evolve only by new fields with defaults at the end.
"""

from __future__ import annotations

import enum

import msgspec

from raft.core.membership import Membership, encode

NOBODY = 0
"""No leader, no vote: raft ids are positive."""


class EntryKind(enum.IntEnum):
    NOOP = 0
    """Begins each leader's term (thesis §6.4)."""
    DATA = 1
    CHANGE = 2
    """`data` is the membership that counts from here on."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    index: int
    term: int
    kind: EntryKind
    data: bytes = b""


class HardState(msgspec.Struct, frozen=True, kw_only=True):
    """Must be on disk before anything that follows from it is said."""

    term: int = 0
    vote: int = NOBODY
    commit: int = 0
    """A hint for a quicker restart: it may lag."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The applied state up to and including `index`."""

    index: int = 0
    term: int = 0
    membership: Membership = Membership()
    data: bytes = b""


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    to: int
    sender: int
    term: int


class PreVote(_Message, frozen=True, kw_only=True, tag="pre_vote"):
    """Would you vote for me in `term` (the sender's next one)? Changes nobody's state (thesis §9.6)."""

    last_index: int
    last_term: int


class PreVoteReply(_Message, frozen=True, kw_only=True, tag="pre_vote_reply"):
    """`term` is the one asked about when granted, else the voter's own."""

    granted: bool


class Vote(_Message, frozen=True, kw_only=True, tag="vote"):
    last_index: int
    last_term: int
    transfer: bool = False
    """The leader asked for it (thesis §3.10): members need not wait for its silence."""


class VoteReply(_Message, frozen=True, kw_only=True, tag="vote_reply"):
    granted: bool


class Append(_Message, frozen=True, kw_only=True, tag="append"):
    prev_index: int
    prev_term: int
    commit: int
    entries: tuple[Entry, ...] = ()


class AppendReply(_Message, frozen=True, kw_only=True, tag="append_reply"):
    index: int
    """Accepted: the log equals the leader's up to here. Rejected: the `prev_index` that did not match."""
    reject: bool = False
    hint_index: int = 0
    """Rejected: the highest index that may still match, and the follower's term there."""
    hint_term: int = 0


class Heartbeat(_Message, frozen=True, kw_only=True, tag="heartbeat"):
    commit: int
    read: int = 0
    """The leader's read round: echoed, so that a majority proves it leads still (thesis §6.4)."""


class HeartbeatReply(_Message, frozen=True, kw_only=True, tag="heartbeat_reply"):
    read: int = 0


class InstallSnapshot(_Message, frozen=True, kw_only=True, tag="install_snapshot"):
    snapshot: Snapshot


class TimeoutNow(_Message, frozen=True, kw_only=True, tag="timeout_now"):
    """Campaign at once (thesis §3.10)."""


class ReadIndex(_Message, frozen=True, kw_only=True, tag="read_index"):
    """A follower asks the leader for a read point."""

    context: int


class ReadIndexReply(_Message, frozen=True, kw_only=True, tag="read_index_reply"):
    context: int
    index: int


class Removed(_Message, frozen=True, kw_only=True, tag="removed"):
    """You were removed from the group: said to a former member that campaigns."""


Message = (
    PreVote
    | PreVoteReply
    | Vote
    | VoteReply
    | Append
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | InstallSnapshot
    | TimeoutNow
    | ReadIndex
    | ReadIndexReply
    | Removed
)


class Role(enum.Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class SoftState(msgspec.Struct, frozen=True, kw_only=True):
    role: Role
    leader: int
    term: int
    removed: bool = False
    """This member learned that it is no longer in the group."""


class ReadState(msgspec.Struct, frozen=True, kw_only=True):
    """Once `index` is applied, local state is current as of the request `context`."""

    context: int
    index: int


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What a member has on disk: `entries` follow `base_index` without a gap; base <= snapshot."""

    hard_state: HardState = HardState()
    snapshot: Snapshot = Snapshot()
    base_index: int = 0
    base_term: int = 0
    entries: tuple[Entry, ...] = ()


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """One batch of work for the shell. The order is the law: persist, then send, then apply, then `advance`."""

    hard_state: HardState | None
    """Not None exactly when something must be persisted, in one transaction with `snapshot` and `entries`."""
    snapshot: Snapshot | None
    """Replaces the whole log and the applied state."""
    entries: tuple[Entry, ...]
    """Replace everything stored at their indexes and after."""
    messages: tuple[Message, ...]
    committed: tuple[Entry, ...]
    reads: tuple[ReadState, ...]
    soft_state: SoftState | None
    """Not None when it changed."""


def first_member(raft_id: int, addr: str) -> Stored:
    """What the founder of a group starts with: itself as the only voter, committed in term 1."""
    data = encode(Membership(voters={raft_id: addr}))
    return Stored(hard_state=HardState(term=1, commit=1), entries=(Entry(1, 1, EntryKind.CHANGE, data),))
