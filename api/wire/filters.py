"""The `filters` query parameter: JSON, `{"name": ["a", "b"]}`, or the older `{"name": {"a": true}}` (note C26)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from api.errors import InvalidArgument

Filters = dict[str, list[str]]

_decode = msgspec.json.Decoder(dict[str, list[str] | dict[str, bool]]).decode


def parse(text: str, allowed: Collection[str] | None = None) -> Filters:
    """Filters by name. Raises InvalidArgument for JSON of another shape and for a name not in `allowed`."""
    if not text:
        return {}
    try:
        raw = _decode(text)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"invalid filters: {error}") from None
    found: Filters = {}
    for name, values in raw.items():
        if allowed is not None and name not in allowed:
            raise InvalidArgument(f"Invalid filter '{name}'")
        found[name] = list(values) if isinstance(values, list) else [value for value, on in values.items() if on]
    return found


def matches_labels(wanted: Sequence[str], labels: Mapping[str, str]) -> bool:
    """Whether every `key` or `key=value` of `wanted` is among `labels`."""
    for item in wanted:
        key, has_value, value = item.partition("=")
        if key not in labels or (has_value and labels[key] != value):
            return False
    return True
