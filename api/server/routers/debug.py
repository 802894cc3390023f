"""Operators' endpoints, no part of Docker's API: what `shoald debug` asks a running daemon."""

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


class DebugBackend(Protocol):
    async def network_check(self) -> NetworkCheck: ...


def routes(backend: DebugBackend) -> list[Route]:
    """The routes of this area."""

    async def network_check(request: web.Request) -> web.StreamResponse:
        return reply(request, await backend.network_check())

    return [Route("POST", "/debug/network-check", network_check)]
