"""Which image a step would make again, if it was made before. Pure.

Two steps are the same when they stand on the same image and their containers would have been configured the same:
the whole configuration and the step's own words, which name the content of what is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.engine.images.model import ImageConfig, Index

_OF_ONE_RUN = frozenset({"Hostname", "Domainname", "Image"})


def find_cached(index: Index, parent: str, container_config: Mapping[str, Any]) -> str | None:
    """The newest image made on `parent` ("" is none) by the same step."""
    wanted = _key(container_config)
    best, best_time = None, ""
    for record in index.visible():
        if record.parent != parent:
            continue
        config = index.configs[record.id]
        if config.container_config is None or (not parent and not _is_first(config)):
            continue
        if _key(config.container_config) == wanted and (config.created or "") >= best_time:
            best, best_time = record.id, config.created or ""
    return best


def _is_first(config: ImageConfig) -> bool:
    """One step from scratch, and not the whole of an image that lost its parent on the way here."""
    return len(config.history or []) == 1


def _key(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _OF_ONE_RUN and value}
