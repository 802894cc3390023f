"""Node endpoints (v1.24 section 3.7): parse, call, reply."""

from __future__ import annotations

from aiohttp import web

from api.server.backends import ClusterBackend
from api.server.http import Route, empty, filters, flag, read_json, reply
from api.server.routers.swarm import required_version
from api.server.views import node_view
from api.types.swarm import NodeSpec

FILTERS = ("id", "label", "node.label", "membership", "name", "role")


def routes(backend: ClusterBackend) -> list[Route]:
    """The routes of this area."""

    async def list_nodes(request: web.Request) -> web.StreamResponse:
        nodes = await backend.control().list_nodes(filters(request, FILTERS))
        return reply(request, [node_view(node) for node in nodes])

    async def inspect(request: web.Request) -> web.StreamResponse:
        return reply(request, node_view(await backend.control().get_node(request.match_info["id"])))

    async def remove(request: web.Request) -> web.StreamResponse:
        await backend.control().remove_node(request.match_info["id"], force=flag(request, "force"))
        return empty(200)

    async def update(request: web.Request) -> web.StreamResponse:
        control = backend.control()
        version = required_version(request)
        await control.update_node(request.match_info["id"], await read_json(request, NodeSpec), version)
        return empty(200)

    return [
        Route("GET", "/nodes", list_nodes),
        Route("GET", "/nodes/{id}", inspect),
        Route("DELETE", "/nodes/{id}", remove),
        Route("POST", "/nodes/{id}/update", update),
    ]
