"""Which containers a list shows (v1.24 "List containers"). Pure: views in, views out."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from api.errors import InvalidArgument
from worker.engine.containers.records import ContainerRecord
from worker.engine.containers.states import Status

STATUSES = tuple(status.value for status in Status)


@dataclass(frozen=True)
class Candidate:
    """A container as the filters see it."""

    record: ContainerRecord
    networks: Collection[str] = ()
    """Names and ids of its networks."""
    health: str = "none"


def check_filters(filters: Mapping[str, Sequence[str]]) -> None:
    """Raises InvalidArgument for a value that can't be."""
    for value in filters.get("status", ()):
        if value not in STATUSES:
            raise InvalidArgument(f"Invalid filter 'status={value}'")
    for value in filters.get("exited", ()):
        if not value.lstrip("-").isdecimal():
            raise InvalidArgument(f"Invalid filter 'exited={value}'")
    for value in filters.get("isolation", ()):
        if value not in ("default", "process", "hyperv"):
            raise InvalidArgument(f"Invalid filter 'isolation={value}'")
    for value in filters.get("health", ()):
        if value not in ("none", "starting", "healthy", "unhealthy"):
            raise InvalidArgument(f"Invalid filter 'health={value}'")


def shows_stopped(filters: Mapping[str, Sequence[str]]) -> bool:
    """Some filters are about stopped containers, and show them without `all`."""
    return bool(filters.get("status") or filters.get("exited") or filters.get("before") or filters.get("since"))


def matches(
    candidate: Candidate,
    filters: Mapping[str, Sequence[str]],
    *,
    ancestors: Collection[str],
    newer_than: int | None,
    older_than: int | None,
) -> bool:
    """True if every given filter agrees; values of one filter are alternatives, but for labels.

    Args:
        ancestors: ids of the images that the ancestor filter names.
        newer_than, older_than: creation times (ns) that since and before name.
    """
    record = candidate.record
    if newer_than is not None and record.created_ns <= newer_than:
        return False
    if older_than is not None and record.created_ns >= older_than:
        return False
    if filters.get("ancestor") and record.image_id not in ancestors:
        return False
    return all(_agrees(name, values, candidate) for name, values in filters.items() if values)


def _agrees(name: str, values: Sequence[str], candidate: Candidate) -> bool:
    record = candidate.record
    labels = record.config.labels or {}
    match name:
        case "id":
            return any(record.id.startswith(value) for value in values)
        case "name":
            return any(_named(value, record.name) for value in values)
        case "status":
            return record.status.value in values
        case "exited":
            ended = record.status is Status.EXITED or (record.status is Status.CREATED and record.exit_code != 0)
            return ended and str(record.exit_code) in values
        case "label":
            return all(_has_label(labels, value) for value in values)
        case "volume":
            return any(value in (mount.name, mount.destination) for mount in record.mounts for value in values)
        case "network":
            return any(_names(value, candidate.networks) for value in values)
        case "health":
            return candidate.health in values
        case "isolation":
            return "default" in values
        case "is-task":
            return ("com.docker.swarm.task.id" in labels) == (values[0].lower() in ("1", "true"))
        case "publish":
            return any(_port(value) in (record.host_config.port_bindings or {}) for value in values)
        case "expose":
            offered = {**(record.config.exposed_ports or {}), **(record.host_config.port_bindings or {})}
            return any(_port(value) in offered for value in values)
    return True


def _named(pattern: str, name: str) -> bool:
    """A regular expression that finds something in the name, with or without its slash (as in dockerd)."""
    if pattern in (name, f"/{name}"):
        return True
    try:
        return any(re.search(pattern, text) for text in (name, f"/{name}"))
    except re.error:
        return False


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, has_value, value = wanted.partition("=")
    return key in labels and (not has_value or labels[key] == value)


def _names(wanted: str, networks: Collection[str]) -> bool:
    return any(wanted == known or (len(known) == 64 and known.startswith(wanted)) for known in networks)


def _port(text: str) -> str:
    return text if "/" in text else f"{text}/tcp"
