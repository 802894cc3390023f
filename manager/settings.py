"""The swarm spec's Raft settings as Raft takes them. Pure.

The API's ticks are said to be seconds, and dockerd's defaults (1 and 3) would leave a swarm without a leader for three
to six seconds. Here a tick is a third of a second: `ElectionTick` counts whole ones; `HeartbeatTick` gives the leader
three heartbeats in each, so that one that is lost costs no election. The defaults come to 0.1 s and 1 s.
"""

from __future__ import annotations

import msgspec

from api.types.swarm import RaftConfig as Wished
from raft.contract import RaftConfig

RAFT_TICKS = 10
"""Ticks of Raft (0.1 s) in three of the API's."""
HEARTBEATS_MIN = 3
"""In an election timeout."""


def raft_settings(wished: Wished, present: RaftConfig) -> RaftConfig:
    """`present` with what the swarm wishes; a 0 in the wish leaves the present value."""
    heartbeat = wished.heartbeat_tick or present.limits.heartbeat_tick
    election = wished.election_tick * RAFT_TICKS // 3 or present.limits.election_tick
    limits = msgspec.structs.replace(
        present.limits, heartbeat_tick=heartbeat, election_tick=max(election, HEARTBEATS_MIN * heartbeat)
    )
    return msgspec.structs.replace(
        present,
        limits=limits,
        snapshot_interval=wished.snapshot_interval or present.snapshot_interval,
        log_entries_for_slow_followers=wished.log_entries_for_slow_followers or present.log_entries_for_slow_followers,
        keep_old_snapshots=wished.keep_old_snapshots or 0,
    )
