"""A name for a service that came without one: `swift_harbor`."""

from __future__ import annotations

import secrets

_FIRST_WORDS = (
    "amber bold brisk calm clear coral dusky early eager fair fresh gentle glad golden grand keen kind light lively "
    "lucid mellow merry mild noble plain prime proud quick quiet rapid silver steady still stout sunny swift tidal "
    "true vivid warm wide wise"
)
_SECOND_WORDS = (
    "anchor bay beacon brook cape cove creek current delta drift eddy ferry fjord gulf gull harbor haven heron inlet "
    "island jetty keel lagoon lantern marina mast otter pier reef ripple river sail shore sound spray strait tern "
    "tide wharf"
)


_FIRST = tuple(_FIRST_WORDS.split())
_SECOND = tuple(_SECOND_WORDS.split())


def random_name() -> str:
    return f"{secrets.choice(_FIRST)}_{secrets.choice(_SECOND)}"
