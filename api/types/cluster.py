"""Request bodies of the swarm endpoints (v1.24 section 3.8) that are not specs."""

from __future__ import annotations

from api.types.base import Api, Spec
from api.types.swarm import SwarmSpec


class SwarmInit(Api):
    """`POST /swarm/init`. Addresses are `host[:port]` or `interface[:port]`; empty means the default."""

    listen_addr: str = ""
    advertise_addr: str = ""
    force_new_cluster: bool = False
    spec: SwarmSpec = SwarmSpec()
    availability: str = ""


class SwarmJoin(Api):
    """`POST /swarm/join`."""

    listen_addr: str = ""
    advertise_addr: str = ""
    remote_addrs: list[str] = []
    join_token: str = ""
    availability: str = ""


class GivenTokens(Spec, frozen=True, kw_only=True):
    """Join tokens that the user brings; an empty one stays as it is."""

    worker: str = ""
    manager: str = ""


class SwarmUpdate(SwarmSpec, frozen=True, kw_only=True):
    """`POST /swarm/update`: the spec itself, and tokens beside its parts."""

    join_tokens: GivenTokens = GivenTokens()

    def spec(self) -> SwarmSpec:
        """Without the tokens."""
        return SwarmSpec(**{name: getattr(self, name) for name in SwarmSpec.__struct_fields__})
