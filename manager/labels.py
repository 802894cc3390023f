"""Labels by which users ask for what the API has no field for. Pure. Read by the loops, checked by the control API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from api.errors import InvalidArgument

REBALANCE: Final = "shoal.rebalance"
"""On a service, or on the swarm for all services: how many tasks of a service may move in a minute, to even out the
load. Without it, or with 0, none does."""


def moves_a_minute(labels: Mapping[str, str]) -> int | None:
    """What the label says; None without it. Raises InvalidArgument for what is no whole number."""
    text = labels.get(REBALANCE)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise InvalidArgument(f"label {REBALANCE}: {text!r} is not a number of moves per minute")
    return int(text)
