"""Operators' endpoints, no part of Docker's API: what `shoald debug` and `shoald ca` ask a running daemon."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from api.server.http import Route, reply
from api.types.base import Api


class NetworkCheck(Api, kw_only=True):
    """How the data plane of swarm networks stands, after a check that repaired what it could."""

    desired_index: int
    """Raft index of what the managers said last."""
    applied_index: int
    lag: int
    repairs: list[str]
    failures: list[str]


class TaskMove(Api, kw_only=True):
    """A task that would leave one node for another; both by host name."""

    slot: int
    task: str
    source: str
    target: str


class ServiceMoves(Api, kw_only=True):
    """The moves that would even out a service, in their order. `moves_per_minute` 0: it is off, none will be made."""

    service: str
    moves_per_minute: int
    moves: list[TaskMove]


class RootCaStatus(Api, kw_only=True):
    """How the replacement of the swarm's root stands."""

    digest: str
    """Of the root that tokens name."""
    rotating: bool
    waiting_for: list[str]
    """Nodes that have no certificate of the new root yet, by host name (or id)."""


class DebugBackend(Protocol):
    async def network_check(self) -> NetworkCheck: ...

    async def rebalance(self) -> list[ServiceMoves]: ...

    async def root_ca(self) -> RootCaStatus: ...

    async def rotate_root_ca(self) -> None: ...


def routes(backend: DebugBackend) -> list[Route]:
    """The routes of this area."""

    async def network_check(request: web.Request) -> web.StreamResponse:
        return reply(request, await backend.network_check())

    async def rebalance(request: web.Request) -> web.StreamResponse:
        return reply(request, await backend.rebalance())

    async def root_ca(request: web.Request) -> web.StreamResponse:
        return reply(request, await backend.root_ca())

    async def rotate_root_ca(request: web.Request) -> web.StreamResponse:
        await backend.rotate_root_ca()
        return reply(request, await backend.root_ca())

    return [
        Route("POST", "/debug/root-ca", root_ca),
        Route("POST", "/debug/rotate-root-ca", rotate_root_ca),
        Route("POST", "/debug/network-check", network_check),
        Route("POST", "/debug/rebalance", rebalance),
    ]
