"""Task endpoints (v1.24 section 3.10): parse, call, reply."""

from __future__ import annotations

from aiohttp import web

from api.server.backends import ClusterBackend
from api.server.http import Route, filters, reply
from api.server.views import task_view

FILTERS = ("id", "name", "service", "node", "label", "desired-state", "_up-to-date", "runtime")


def routes(backend: ClusterBackend) -> list[Route]:
    """The routes of this area."""

    async def list_tasks(request: web.Request) -> web.StreamResponse:
        control = backend.control()
        tasks = await control.list_tasks(filters(request, FILTERS))
        networks = {network.id: network for network in await control.list_networks()}
        return reply(request, [task_view(task, networks) for task in tasks])

    async def inspect(request: web.Request) -> web.StreamResponse:
        control = backend.control()
        task = await control.get_task(request.match_info["id"])
        return reply(request, task_view(task, {network.id: network for network in await control.list_networks()}))

    return [
        Route("GET", "/tasks", list_tasks),
        Route("GET", "/tasks/{id}", inspect),
    ]
