"""Networks as the API shows them: this host's own, and the swarm's where a manager is asked (v1.24 section 3.5).

A worker shows the swarm networks that its tasks are on; it can't make or remove one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from api.errors import Conflict, NotFound, NotInSwarm, Unavailable
from api.server.backends import ClusterBackend, ControlBackend
from api.server.views import network_spec, overlay_view
from api.types.network import Network, NetworkCreate, NetworkCreated
from api.types.objects import SwarmNetwork
from worker.engine.networks.catalog import accepts
from worker.engine.networks.controller import NetworkController

OVERLAY = "overlay"
PREDEFINED = ("bridge", "host", "none")


class Networks:
    """Satisfies `api.server.routers.network.NetworkBackend`."""

    def __init__(self, local: NetworkController, cluster: ClusterBackend) -> None:
        self._local = local
        self._cluster = cluster

    async def create(self, body: NetworkCreate) -> NetworkCreated:
        """Raises NotInSwarm for an overlay on a node that is no manager."""
        if body.driver == OVERLAY or body.scope == "swarm":
            control = self._cluster.control()
            if body.check_duplicate and any(one.name == body.name for one in self._local.list({})):
                raise Conflict(f"network with name {body.name} already exists")
            return NetworkCreated(id=await control.create_network(network_spec(body)))
        return await self._local.create(body)

    async def inspect(self, ref: str) -> Network:
        """Raises NotFound."""
        control = self._control()
        try:
            found = self._local.inspect(ref)
        except NotFound:
            if control is None:
                raise
            return overlay_view(await control.get_network(ref))
        if found.driver != OVERLAY or control is None:
            return found
        try:
            return _merged(overlay_view(await control.get_network(found.id)), found)
        except Unavailable:  # no leader now: what this host was told holds
            return found

    async def list(self, filters: Mapping[str, Sequence[str]]) -> list[Network]:
        """This host's networks, then the swarm's; without a leader, those of them that this host was told of."""
        control = self._control()
        try:
            swarm_networks = await _all(control) if control is not None else None
        except Unavailable:
            swarm_networks = None
        if swarm_networks is None:
            return self._local.list(filters)
        passes = accepts(filters)
        here = {network.id: network for network in self._local.list({})}
        swarm = {network.id: _merged(overlay_view(network), here.get(network.id)) for network in swarm_networks}
        own = [network for network in self._local.list(filters) if network.driver != OVERLAY]
        return [*own, *(network for network in swarm.values() if passes(network))]

    async def remove(self, ref: str) -> None:
        """Raises NotFound, Forbidden (predefined, or in use)."""
        try:
            found = self._local.inspect(ref)
        except NotFound:
            control = self._control()
            if control is None:
                raise
            await control.remove_network(ref)
            return
        if found.driver == OVERLAY:
            await self._cluster.control().remove_network(found.id)
        else:
            await self._local.remove(ref)

    def _control(self) -> ControlBackend | None:
        try:
            return self._cluster.control()
        except NotInSwarm:
            return None


async def _all(control: ControlBackend) -> Sequence[SwarmNetwork]:
    return sorted(await control.list_networks(), key=lambda network: network.spec.name)


def _merged(swarm: Network, here: Network | None) -> Network:
    """The swarm's word, with the containers of this host."""
    if here is not None:
        swarm.containers = here.containers
    return swarm
