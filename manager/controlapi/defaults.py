"""The swarm's settings where the user names none: Docker's. Pure."""

from __future__ import annotations

import msgspec

from api.types.swarm import CAConfig, DispatcherConfig, ExternalCA, OrchestrationConfig, RaftConfig, SwarmSpec
from base.clock import NS

HEARTBEAT_PERIOD_NS = 5 * NS
NODE_CERT_EXPIRY_NS = 90 * 24 * 3600 * NS
TASK_HISTORY = 5
SNAPSHOT_INTERVAL = 10_000
LOG_ENTRIES_FOR_SLOW_FOLLOWERS = 500
HEARTBEAT_TICK = 1
ELECTION_TICK = 3


def filled(spec: SwarmSpec) -> SwarmSpec:
    """The spec with a default in every field that was left out (or 0, where 0 makes no sense)."""
    limit = spec.orchestration.task_history_retention_limit
    raft = spec.raft
    return msgspec.structs.replace(
        spec,
        name=spec.name or "default",
        orchestration=OrchestrationConfig(task_history_retention_limit=TASK_HISTORY if limit is None else limit),
        raft=RaftConfig(
            snapshot_interval=raft.snapshot_interval or SNAPSHOT_INTERVAL,
            keep_old_snapshots=raft.keep_old_snapshots,
            log_entries_for_slow_followers=raft.log_entries_for_slow_followers or LOG_ENTRIES_FOR_SLOW_FOLLOWERS,
            heartbeat_tick=raft.heartbeat_tick or HEARTBEAT_TICK,
            election_tick=raft.election_tick or ELECTION_TICK,
        ),
        dispatcher=DispatcherConfig(heartbeat_period=spec.dispatcher.heartbeat_period or HEARTBEAT_PERIOD_NS),
        ca_config=CAConfig(
            node_cert_expiry=spec.ca_config.node_cert_expiry or NODE_CERT_EXPIRY_NS,
            external_cas=_external_cas(spec.ca_config),
        ),
    )


def _external_cas(config: CAConfig) -> list[ExternalCA]:
    """Under the name that clients use; the protocol is the only one there is when none is named."""
    other = config.external_ca
    given = [*config.external_cas, *(other if isinstance(other, list) else [other] if other is not None else [])]
    return [msgspec.structs.replace(each, protocol=each.protocol or "cfssl") for each in given]
