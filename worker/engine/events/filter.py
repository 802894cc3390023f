"""Which events a `filters` parameter lets through (v1.24 "Monitor Docker's events"). Pure.

Values of one filter are alternatives, different filters must all agree; `label` alone needs every value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from api.types.event import EventMessage

KINDS = ("container", "image", "volume", "network", "daemon", "plugin", "node", "service", "secret", "config")
FILTERS = ("type", "event", "container", "image", "label", "volume", "network", "daemon")


def matches(message: EventMessage, filters: Mapping[str, Sequence[str]]) -> bool:
    """True if every filter that is given agrees. Filters not in FILTERS are the router's to refuse."""
    return all(_agrees(name, values, message) for name, values in filters.items() if values)


def _agrees(name: str, values: Sequence[str], message: EventMessage) -> bool:
    if name == "type":
        return message.type in values
    if name == "event":
        return message.action in values or message.action.partition(":")[0] in values
    if name == "label":
        return all(_has_label(message, value) for value in values)
    if name == "image":
        return _is_image(message, values)
    return message.type == name and any(_is_actor(message, value) for value in values)


def _has_label(message: EventMessage, wanted: str) -> bool:
    key, has_value, value = wanted.partition("=")
    attributes = message.actor.attributes
    return key in attributes and (not has_value or attributes[key] == value)


def _is_actor(message: EventMessage, wanted: str) -> bool:
    """By whole id, a prefix of it, or by name (with or without the slash)."""
    name = message.actor.attributes.get("name", "")
    return bool(wanted) and (message.actor.id.startswith(wanted) or name == wanted.removeprefix("/"))


def _is_image(message: EventMessage, values: Sequence[str]) -> bool:
    """Events of the image itself, and of containers made from it; a name without a tag means any tag."""
    if message.type == "image":
        candidates = [message.actor.id, message.actor.attributes.get("name", "")]
    elif message.type == "container" and message.origin is not msgspec.UNSET:
        candidates = [message.origin]
    else:
        return False
    return any(value in (candidate, _untagged(candidate)) for value in values for candidate in candidates if candidate)


def _untagged(reference: str) -> str:
    head, slash, tail = reference.rpartition("/")
    return head + slash + tail.partition("@")[0].partition(":")[0]
