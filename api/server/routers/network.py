"""Network endpoints (v1.24 section 3.5): parse, call, reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from aiohttp import web

from api.errors import Forbidden, InvalidArgument
from api.server.http import Route, empty, filters, read_json, reply
from api.types.endpoint import EndpointSettings
from api.types.network import Network, NetworkConnect, NetworkCreate, NetworkCreated, NetworkDisconnect


class NetworkBackend(Protocol):
    async def create(self, body: NetworkCreate) -> NetworkCreated: ...

    async def inspect(self, ref: str) -> Network: ...

    async def list(self, filters: Mapping[str, Sequence[str]]) -> list[Network]: ...

    async def remove(self, ref: str) -> None: ...


class NetworkMembers(Protocol):
    """Containers keep what networks they are on, running or not; a running one is joined at once."""

    async def connect_network(self, ref: str, network: str, settings: EndpointSettings | None) -> None: ...

    async def disconnect_network(self, ref: str, network: str, *, force: bool) -> None: ...


def routes(backend: NetworkBackend, members: NetworkMembers) -> list[Route]:
    """The six endpoints. `ref` is a network's id, name, or unique id prefix."""

    async def list_networks(request: web.Request) -> web.StreamResponse:
        return reply(request, await backend.list(filters(request)))

    async def create(request: web.Request) -> web.StreamResponse:
        return reply(request, await backend.create(await read_json(request, NetworkCreate)), status=201)

    async def inspect(request: web.Request) -> web.StreamResponse:
        return reply(request, await backend.inspect(request.match_info["name"]))

    async def local(request: web.Request) -> Network:
        """The network that a container is to join or leave. Raises Forbidden for one of swarm scope: who is on those is
        the managers' to say."""
        network = await backend.inspect(request.match_info["name"])
        if network.scope == "swarm":
            raise Forbidden(f"operation not supported for swarm scoped networks: {network.name}")
        return network

    async def connect(request: web.Request) -> web.StreamResponse:
        body = await read_json(request, NetworkConnect)
        network = await local(request)
        await members.connect_network(_container(body.container), network.name, body.endpoint_config)
        return empty(200)

    async def disconnect(request: web.Request) -> web.StreamResponse:
        body = await read_json(request, NetworkDisconnect)
        network = await local(request)
        await members.disconnect_network(_container(body.container), network.name, force=body.force)
        return empty(200)

    async def remove(request: web.Request) -> web.StreamResponse:
        await backend.remove(request.match_info["name"])
        return empty()

    return [
        Route("GET", "/networks", list_networks),
        Route("POST", "/networks/create", create),
        Route("GET", "/networks/{name}", inspect),
        Route("POST", "/networks/{name}/connect", connect),
        Route("POST", "/networks/{name}/disconnect", disconnect),
        Route("DELETE", "/networks/{name}", remove),
    ]


def _container(ref: str) -> str:
    if not ref:
        raise InvalidArgument("Container: a container's name or id is needed")
    return ref
