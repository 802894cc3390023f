"""The bases all structs share."""

from __future__ import annotations

import msgspec

from api.types.naming import docker_name


class Api(msgspec.Struct, kw_only=True, rename=docker_name):
    """A request or response body: Docker's key casing, unknown keys ignored, every key written."""


class Spec(msgspec.Struct, kw_only=True, frozen=True, rename=docker_name, omit_defaults=True, gc=False):
    """What a user wants. Frozen; empty parts are left out of the JSON, as Docker's `omitempty` does."""


class Record(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, gc=False):
    """What is stored or sent between nodes (MessagePack). Evolves only by new fields with defaults."""


# gc=False: frozen trees of values hold no cycles, and the collector would walk a store full of them again and
# again (measured: decoding tasks took a third of a manager's time).
# `frozen` is inherited and `kw_only` is not; type checkers want both said again, so every struct says them.
