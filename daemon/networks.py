"""Networks as the API shows them: this host's own, and the swarm's where a manager is asked (v1.24 section 3.5).

A worker shows the swarm networks that its tasks are on; it can't make or remove one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from api.errors import Conflict, InvalidArgument, NotFound, NotInSwarm, Unavailable
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
            # Overlays known here are left out: one that the swarm has just removed may be among them.
            own = [one.name for one in self._local.list({}) if one.driver != OVERLAY]
            if body.check_duplicate and body.name in own:
                raise Conflict(f"network with name {body.name} already exists")
            return NetworkCreated(id=await control.create_network(network_spec(body)))
        return await self._local.create(body)

    async def inspect(self, ref: str) -> Network:
        """Raises NotFound."""
        control = self._control()
        own = self._own(ref, alone=control is None)
        if own is not None or control is None:
            return own or self._local.inspect(ref)
        try:
            network = await control.get_network(ref)
        except Unavailable:  # no leader now: what this host was told holds
            return self._local.inspect(ref)
        here = {known.id: known for known in self._local.list({})}
        return _merged(overlay_view(network), here.get(network.id))

    def _own(self, ref: str, *, alone: bool = False) -> Network | None:
        """The host's own network of this name or id. The overlays it was told of are the managers' to show: they may
        have removed one meanwhile, or made another of its name. Raises InvalidArgument (ambiguous)."""
        try:
            found = self._local.inspect(ref)
        except NotFound:
            return None
        except InvalidArgument:
            if alone or any(ref in (one.name, one.id) for one in self._local.list({}) if one.driver != OVERLAY):
                raise
            return None
        return found if found.driver != OVERLAY else None

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
        if self._own(ref) is not None:
            await self._local.remove(ref)
            return
        control = self._control()
        if control is None:
            self._local.inspect(ref)  # NotFound, if it is
            control = self._cluster.control()
        await control.remove_network(ref)

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
