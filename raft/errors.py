"""What a caller of raft can be told. Each is one of the project's error kinds."""

from __future__ import annotations

from api.errors import Internal, Unavailable


class NotLeader(Unavailable):
    """This member can't take the request: ask `leader_id` at `leader_addr` (0 and "" when none is known)."""

    def __init__(self, leader_id: int = 0, leader_addr: str = "") -> None:
        where = f"the leader is at {leader_addr}" if leader_addr else "no leader is known"
        super().__init__(f"this manager is not the leader; {where}")
        self.leader_id = leader_id
        self.leader_addr = leader_addr


class HandingOver(Unavailable):
    """The leader lets another one take over and takes no proposals meanwhile; nothing was done."""

    def __init__(self) -> None:
        super().__init__("leadership is being handed over")


class LeadershipLost(Unavailable):
    """The leader stepped down before the proposal was committed: whether it will be applied is not known."""

    def __init__(self) -> None:
        super().__init__("the manager lost leadership before the change was agreed; it may or may not take effect")


class StorageCorrupt(Internal):
    """A record of the raft log fails its checksum or is missing: this member must not go on."""
