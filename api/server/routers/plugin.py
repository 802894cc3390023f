"""Plugin endpoints (v1.24 section 3.6): there are none on this engine, and none can be installed (docs/limits.md)."""

from __future__ import annotations

from typing import Never

from aiohttp import web

from api.errors import NotFound, NotSupported
from api.server.http import Route, reply


def routes() -> list[Route]:
    """The routes of this area."""

    async def list_plugins(request: web.Request) -> web.StreamResponse:
        return reply(request, [])

    async def pull(request: web.Request) -> Never:
        raise NotSupported("installing plugins is not supported: this engine runs no plugin containers")

    async def named(request: web.Request) -> Never:
        raise NotFound(f'plugin "{request.match_info["name"]}" not found')

    return [
        Route("GET", "/plugins", list_plugins),
        Route("POST", "/plugins/pull", pull),
        Route("GET", "/plugins/{name:.+}/json", named),
        Route("POST", "/plugins/{name:.+}/enable", named),
        Route("POST", "/plugins/{name:.+}/disable", named),
        Route("POST", "/plugins/{name:.+}/push", named),
        Route("GET", "/plugins/{name:.+}", named),
        Route("DELETE", "/plugins/{name:.+}", named),
    ]
