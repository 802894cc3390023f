"""Every bound of the core in one place, with the relations between them checked once.

Times are in ticks: the core has no clock.
"""

from __future__ import annotations

import msgspec

from api.errors import InvalidArgument


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and timings of one member."""

    election_tick: int = 10
    """A follower that hears nothing for a random time in [election_tick, 2 * election_tick) asks for pre-votes."""
    heartbeat_tick: int = 1
    append_bytes_max: int = 1024 * 1024
    """Payload of one Append; a single larger entry travels alone."""
    proposal_bytes_max: int = 3 * 512 * 1024
    """Payload of one entry."""
    uncommitted_bytes_max: int = 32 * 1024 * 1024
    """What a leader takes on before it has committed what it has; beyond it refuses proposals."""
    inflight_max: int = 64
    """Appends on the way to one follower without an answer."""
    apply_entries_max: int = 512
    """Committed entries handed out in one Ready."""
    snapshot_tick: int = 600
    """A snapshot that is neither acknowledged nor reported after this long is taken for lost."""
    promote_lag_max: int = 64
    """How many entries a learner may lack and still be made a voter (thesis §4.2.1)."""

    def validate(self) -> Limits:
        """Raises InvalidArgument for values that contradict each other."""
        for name in self.__struct_fields__:
            if getattr(self, name) <= 0:
                raise InvalidArgument(f"raft: {name} must be positive")
        if self.election_tick < 3 * self.heartbeat_tick:
            raise InvalidArgument("raft: election_tick must be at least three times heartbeat_tick")
        if self.uncommitted_bytes_max < self.proposal_bytes_max:
            raise InvalidArgument("raft: uncommitted_bytes_max must hold at least one proposal")
        return self
