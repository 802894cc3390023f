"""The words clients show of a container's state: `Up 2 minutes (Paused)`, `Exited (0) 3 hours ago`. Pure."""

from __future__ import annotations

from base.clock import NS
from worker.engine.containers.records import ContainerRecord
from worker.engine.containers.states import Status


def duration(seconds: float) -> str:
    """About how long, in the units a person would say."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = round(whole / 3600)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 14:
        return f"{hours // 24} days"
    if hours < 24 * 60:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def status_text(record: ContainerRecord, now_ns: int, health: str = "") -> str:
    """The `Status` of the list."""
    ended = duration((now_ns - record.finished_ns) / NS)
    match record.status:
        case Status.RUNNING | Status.PAUSED:
            up = f"Up {duration((now_ns - record.started_ns) / NS)}"
            if record.status is Status.PAUSED:
                return f"{up} (Paused)"
            return f"{up} ({'health: starting' if health == 'starting' else health})" if health else up
        case Status.RESTARTING:
            return f"Restarting ({record.exit_code}) {ended} ago"
        case Status.REMOVING:
            return "Removal In Progress"
        case Status.DEAD:
            return "Dead"
        case Status.CREATED:
            return "Created"
        case Status.EXITED:
            return f"Exited ({record.exit_code}) {ended} ago"
