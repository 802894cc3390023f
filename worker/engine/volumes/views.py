"""Volumes as clients see and ask for them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from api.errors import InvalidArgument
from api.types.volume import Volume
from worker.engine.volumes.plugins import Known
from worker.engine.volumes.records import VolumeRecord

FILTERS = ("name", "dangling", "driver", "label")


def foreign(driver: str, known: Known) -> Volume:
    """A volume that only a plugin knows."""
    volume = Volume(name=known.name, driver=driver, mountpoint="", labels=None)
    add_known(volume, known)
    return volume


def add_known(volume: Volume, known: Known | None) -> None:
    """What its plugin says of it, in place."""
    if known is None:
        return
    volume.mountpoint = known.mountpoint or volume.mountpoint
    volume.created_at = known.created_at or volume.created_at
    if known.status:
        volume.status = known.status


def matcher(filters: Mapping[str, Sequence[str]]) -> Callable[[VolumeRecord], bool]:
    """A predicate for the filters of `GET /volumes`. Raises InvalidArgument for a name or value that can't be."""
    for key in filters:
        if key not in FILTERS:
            raise InvalidArgument(f"Invalid filter '{key}'")
    dangling = {_truth(value) for value in filters.get("dangling", ())}

    def passes(record: VolumeRecord) -> bool:
        tests = (
            any(value in record.name for value in filters["name"]) if filters.get("name") else True,
            any(value in record.driver for value in filters["driver"]) if filters.get("driver") else True,
            all(has_label(record.labels, value) for value in filters.get("label", ())),
            (not record.holders) in dangling if dangling else True,
        )
        return all(tests)

    return passes


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether `key` or `key=value` holds."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _truth(value: str) -> bool:
    if value not in ("true", "1", "false", "0"):
        raise InvalidArgument(f"Invalid filter 'dangling=[{value}]'")
    return value in ("true", "1")
