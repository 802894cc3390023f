"""Service endpoints (v1.24 section 3.9): parse, call, reply."""

from __future__ import annotations

from aiohttp import web

from api.server.backends import ClusterBackend
from api.server.http import Route, auth_config, empty, filters, read_json, reply
from api.server.routers.swarm import required_version
from api.server.views import service_view
from api.types.swarm import ServiceSpec
from api.types.swarm_views import ServiceCreated, ServiceUpdated

FILTERS = ("id", "label", "name", "mode")


DECODING_CLIENTS = ("Docker-Client/", "docker-sdk-", "Go-http-client/")
"""The document's answer to an update is empty. Clients made for later versions decode an object whatever version they
ask for, and fail on an empty body; they are known by their User-Agent."""


def _auth(request: web.Request) -> str:
    """The login for the nodes that pull, as it came; empty for none. Raises InvalidArgument for a broken one."""
    return request.headers.get("X-Registry-Auth", "") if auth_config(request) is not None else ""


def routes(backend: ClusterBackend) -> list[Route]:
    """The routes of this area."""

    async def list_services(request: web.Request) -> web.StreamResponse:
        services = await backend.control().list_services(filters(request, FILTERS))
        return reply(request, [service_view(service) for service in services])

    async def create(request: web.Request) -> web.StreamResponse:
        control = backend.control()
        service_id = await control.create_service(await read_json(request, ServiceSpec), _auth(request))
        return reply(request, ServiceCreated(id=service_id), status=201)

    async def inspect(request: web.Request) -> web.StreamResponse:
        return reply(request, service_view(await backend.control().get_service(request.match_info["id"])))

    async def remove(request: web.Request) -> web.StreamResponse:
        await backend.control().remove_service(request.match_info["id"])
        return empty(200)

    async def update(request: web.Request) -> web.StreamResponse:
        control = backend.control()
        version = required_version(request)
        spec = await read_json(request, ServiceSpec)
        await control.update_service(request.match_info["id"], spec, version, _auth(request))
        if request.headers.get("User-Agent", "").startswith(DECODING_CLIENTS):
            return reply(request, ServiceUpdated())
        return empty(200)

    return [
        Route("GET", "/services", list_services),
        Route("POST", "/services/create", create),
        Route("GET", "/services/{id}", inspect),
        Route("DELETE", "/services/{id}", remove),
        Route("POST", "/services/{id}/update", update),
    ]
