"""JSON as clients mean it: null is absent, and names of fields count in any case.

Clients send null for whatever they leave unset; and docker-py says `global` where the document says `Global`, which was
never noticed, for the JSON of Go takes either. Keys of maps (labels, options) are data and stay as they are; so does a
key that no field has, which is ignored as ever. A key in the right case goes before one in another.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from msgspec import inspect

T = TypeVar("T")


def decode(data: bytes, kind: type[T]) -> T:
    """JSON text as `kind`. Raises msgspec's errors, which name the field."""
    plain, shape = msgspec.json.decode(data), _info(cast(Hashable, kind))
    named = _named(plain, shape)
    try:
        return msgspec.json.decode(data, type=kind) if named == plain else msgspec.convert(named, type=kind)
    except msgspec.ValidationError:
        return msgspec.convert(_without_nulls(named), type=kind)


@cache
def _info(kind: Hashable) -> inspect.Type:
    return inspect.type_info(kind)


def _named(value: Any, kind: inspect.Type) -> Any:
    """The value with the names of its fields in the right case."""
    match kind:
        case inspect.UnionType():
            for each in kind.types:
                value = _named(value, each)
        case inspect.StructType() if isinstance(value, dict):
            return _fields(value, kind)
        case inspect.DictType() if isinstance(value, dict):
            return {key: _named(item, kind.value_type) for key, item in value.items()}
        case inspect.ListType() | inspect.VarTupleType() if isinstance(value, list):
            return [_named(item, kind.item_type) for item in value]
    return value


def _fields(value: dict[str, Any], kind: inspect.StructType) -> dict[str, Any]:
    types = {field.encode_name: field.type for field in kind.fields}
    right = _right_case(kind.cls)
    found: dict[str, Any] = {}
    for key in _wrong_ones_first(value, types):
        name = key if key in types else right.get(key.casefold(), key)
        found[name] = _named(value[key], types[name]) if name in types else value[key]
    return found


def _wrong_ones_first(value: Iterable[str], types: dict[str, inspect.Type]) -> list[str]:
    return sorted(value, key=lambda key: key in types)


@cache
def _right_case(kind: type[msgspec.Struct]) -> dict[str, str]:
    names = msgspec.structs.fields(kind)
    return {field.encode_name.casefold(): field.encode_name for field in names}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
