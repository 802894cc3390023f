"""Restart policies as a pure decision: how a run ended in, wait-and-start-again or not out (v1.24 RestartPolicy)."""

from __future__ import annotations

from dataclasses import dataclass

from api.errors import InvalidArgument
from api.types.container import RestartPolicy
from base.clock import NS

FIRST_DELAY_S = 0.1
DELAY_MAX_S = 60.0
STEADY_NS = 10 * NS
"""A run this long forgives the failures before it."""
POLICIES = ("", "no", "always", "unless-stopped", "on-failure")
assert DELAY_MAX_S > FIRST_DELAY_S, "the delay grows"


@dataclass(frozen=True)
class Again:
    """Start again after `delay_s`; `failures` is what the record keeps."""

    delay_s: float
    failures: int


def check_policy(policy: RestartPolicy) -> None:
    """Raises InvalidArgument for a policy that can't be."""
    if policy.name not in POLICIES:
        raise InvalidArgument(f"invalid restart policy '{policy.name}'")
    if policy.name != "on-failure" and policy.maximum_retry_count != 0:
        raise InvalidArgument(f"maximum retry count cannot be used with restart policy '{policy.name or 'no'}'")
    if policy.maximum_retry_count < 0:
        raise InvalidArgument("maximum retry count cannot be negative")


def after_exit(
    policy: RestartPolicy, *, exit_code: int, ran_ns: int, failures: int, manually_stopped: bool
) -> Again | None:
    """What follows the end of a run.

    Args:
        ran_ns: how long it ran.
        failures: restarts in a row before this end.
    """
    if manually_stopped or policy.name in ("", "no"):
        return None
    if ran_ns >= STEADY_NS:
        failures = 0
    if policy.name == "on-failure":
        if exit_code == 0:
            return None
        if policy.maximum_retry_count and failures >= policy.maximum_retry_count:
            return None
    delay_s = min(DELAY_MAX_S, FIRST_DELAY_S * 2.0 ** min(failures, 16))
    return Again(delay_s, failures + 1)


def at_daemon_start(
    policy: RestartPolicy, *, exit_code: int, failures: int, manually_stopped: bool, ever_started: bool
) -> bool:
    """True if a container that does not run is started with the daemon: `always` whatever happened, unless it was
    never started; `unless-stopped` only if nobody stopped it; `on-failure` if it ended badly and has retries left."""
    if not ever_started:
        return False
    match policy.name:
        case "always":
            return True
        case "unless-stopped":
            return not manually_stopped
        case "on-failure":
            retries_left = not policy.maximum_retry_count or failures < policy.maximum_retry_count
            return exit_code != 0 and not manually_stopped and retries_left
    return False
