"""The agent's limits and times in one place. Seconds, unless the name says otherwise."""

SESSION_START_S = 5.0
"""Until a manager must have answered a request for a session."""
CALL_S = 5.0
"""For a heartbeat or a status report."""
HEARTBEAT_S = 5.0
"""Until the dispatcher names its period."""
HEARTBEAT_MIN_S = 0.05
HEARTBEAT_EARLY = 0.1
"""Heartbeats come up to this part of the period early, so that nodes don't beat together."""
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.1, 1.0
"""Between attempts to find a dispatcher; a full-jitter draw below it. Short, because a dead leader is replaced in
under 3 s and the nodes should be back soon after."""
LAG_TOLERATED_S = 10.0
"""For so long after an assignment, a complete one of a lower index is taken for the word of a manager that lags, and
refused; later it is the new truth (a cluster restored from a backup)."""
REPORT_GATHER_S = 0.02
"""Statuses that come within this time travel together."""
REPORT_UPDATES_MAX = 1_000
"""Per message; a status with a long error is below 2 kB, so a report stays below the message limit of 4 MiB."""
ERROR_CHARACTERS_MAX = 1_500
"""Of a status's error text; longer ones are cut."""

assert 0 < BACKOFF_FIRST_S < BACKOFF_MAX_S < SESSION_START_S
assert REPORT_UPDATES_MAX * 2_048 < 4 * 1024 * 1024
assert ERROR_CHARACTERS_MAX < 2_048
