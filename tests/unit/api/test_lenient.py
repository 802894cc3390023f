"""What clients send and mean."""

from __future__ import annotations

import msgspec
import pytest

from api.types.lenient import decode
from api.types.swarm import ServiceSpec


class Inner(msgspec.Struct, rename="pascal"):
    size: int = 0


class Outer(msgspec.Struct, rename="pascal"):
    inner: Inner | None = None
    labels: dict[str, str] = {}
    many: list[Inner] = []
    named: dict[str, Inner] = {}


def test_names_of_fields_count_in_any_case() -> None:
    text = b'{"inner": {"SIZE": 1}, "MANY": [{"size": 2}], "named": {"Key": {"siZe": 3}}}'
    assert decode(text, Outer) == Outer(inner=Inner(1), many=[Inner(2)], named={"Key": Inner(3)})


def test_keys_of_maps_are_data() -> None:
    assert decode(b'{"Labels": {"size": "a", "Size": "b"}}', Outer).labels == {"size": "a", "Size": "b"}


@pytest.mark.parametrize("text", [b'{"Size": 1, "size": 2}', b'{"size": 2, "Size": 1}'])
def test_the_right_case_goes_first(text: bytes) -> None:
    assert decode(text, Inner) == Inner(1)


def test_unknown_keys_and_nulls_are_ignored() -> None:
    assert decode(b'{"inner": null, "Labels": null, "colour": 1}', Outer) == Outer()


@pytest.mark.parametrize("text", [b'{"size": "x"}', b'{"Size": "x"}'])
def test_a_wrong_type_is_named(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError, match="Size"):
        decode(text, Inner)


def test_modes_as_docker_py_sends_them() -> None:
    mode = decode(b'{"Mode": {"global": {}}}', ServiceSpec).mode
    assert mode.global_ is not None
    replicated = decode(b'{"Mode": {"replicated": {"Replicas": 2}}}', ServiceSpec).mode.replicated
    assert replicated is not None
    assert replicated.replicas == 2
