"""Swarm endpoints (v1.24 section 3.8): parse, call, reply."""

from __future__ import annotations

from aiohttp import web

from api.errors import InvalidArgument
from api.server.backends import ClusterBackend
from api.server.http import Route, empty, flag, integer, read_json, reply
from api.server.views import swarm_view
from api.types.cluster import SwarmInit, SwarmJoin, SwarmUpdate


def required_version(request: web.Request) -> int:
    """The `version` of the object that an update replaces. Raises InvalidArgument when it is missing."""
    version = integer(request, "version")
    if version is None or version < 0:
        raise InvalidArgument("the query parameter version is required: the version number of the object to update")
    return version


def routes(backend: ClusterBackend) -> list[Route]:
    """The routes of this area."""

    async def inspect(request: web.Request) -> web.StreamResponse:
        return reply(request, swarm_view(await backend.control().get_cluster()))

    async def init(request: web.Request) -> web.StreamResponse:
        return reply(request, await backend.init(await read_json(request, SwarmInit)))

    async def join(request: web.Request) -> web.StreamResponse:
        await backend.join(await read_json(request, SwarmJoin))
        return empty(200)

    async def leave(request: web.Request) -> web.StreamResponse:
        await backend.leave(force=flag(request, "force"))
        return empty(200)

    async def update(request: web.Request) -> web.StreamResponse:
        control = backend.control()
        version = required_version(request)
        update = await read_json(request, SwarmUpdate)
        await control.update_cluster(
            update.spec(),
            version,
            worker_token=update.join_tokens.worker,
            manager_token=update.join_tokens.manager,
            rotate_worker_token=flag(request, "rotateWorkerToken"),
            rotate_manager_token=flag(request, "rotateManagerToken"),
        )
        return empty(200)

    return [
        Route("GET", "/swarm", inspect),
        Route("POST", "/swarm/init", init),
        Route("POST", "/swarm/join", join),
        Route("POST", "/swarm/leave", leave),
        Route("POST", "/swarm/update", update),
    ]
