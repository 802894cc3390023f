"""Labels by which users ask for what the API has no field for. Pure. Read by the loops, checked by the control API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from api.errors import InvalidArgument, NotSupported

REBALANCE: Final = "shoal.rebalance"
"""On a service, or on the swarm for all services: how many tasks of a service may move in a minute, to even out the
load. Without it, or with 0, none does."""

MESH: Final = "shoal.mesh"
"""On a service: `local` keeps the routing mesh to tasks of the node that took the connection."""


def moves_a_minute(labels: Mapping[str, str]) -> int | None:
    """What the label says; None without it. Raises InvalidArgument for what is no whole number."""
    text = labels.get(REBALANCE)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise InvalidArgument(f"label {REBALANCE}: {text!r} is not a number of moves per minute")
    return int(text)


def mesh_is_local(labels: Mapping[str, str]) -> bool:
    """Whether published ports lead to tasks of the same node only. Raises InvalidArgument; NotSupported for `proxy`,
    since who asks for the PROXY protocol must not be sent connections without it."""
    text = labels.get(MESH)
    if text == "proxy":
        raise NotSupported(f"label {MESH}: the PROXY protocol is not offered; local keeps the client's address")
    if text not in (None, "local"):
        raise InvalidArgument(f"label {MESH}: {text!r} is not local")
    return text == "local"
