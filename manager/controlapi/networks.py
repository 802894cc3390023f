"""The operations on networks, and how a service's networks are found. Pure checks; `writes` runs the transactions.

Source: v1.24 section 3.5 "Create a network", "Remove a network"; section 3.9 (403 "network is not eligible for
services"). Texts are dockerd's where clients know them.
"""

from __future__ import annotations

from ipaddress import IPv4Network

import msgspec

from api.errors import Conflict, Forbidden, InvalidArgument, NotFound, NotSupported
from api.types.objects import Service, SwarmNetwork, Task, TaskState
from api.types.swarm import NetworkAttachmentConfig, NetworkSpec, ServiceSpec
from api.wire.ipam import make_subnet
from manager.controlapi.validate import PREDEFINED_NETWORKS, attachments
from manager.labels import mesh_is_local
from manager.store.view import View

OVERLAY = "overlay"
OPTION_MTU = "com.docker.network.driver.mtu"
NAME_LENGTH_MAX = 255
_MTU = range(68, 65536)


def network_spec(spec: NetworkSpec) -> NetworkSpec:
    """The spec in canonical form. Raises InvalidArgument, Forbidden, NotFound or NotSupported naming what is wrong."""
    if not spec.name.strip():
        raise InvalidArgument("invalid name: name is empty")
    if len(spec.name) > NAME_LENGTH_MAX:
        raise InvalidArgument(f"invalid name: at most {NAME_LENGTH_MAX} characters")
    if spec.name in (*PREDEFINED_NETWORKS, "ingress"):
        raise Forbidden(f"operation is not permitted on predefined {spec.name} network")
    driver = spec.driver_configuration
    if driver.name not in ("", OVERLAY):
        raise NotFound(f'plugin "{driver.name}" not found')
    if spec.ingress:
        raise NotSupported("an ingress network of one's own is not supported: the swarm has one")
    _options(driver.options)
    ipam = spec.ipam_options
    if ipam.driver.name not in ("", "default"):
        raise NotFound(f'plugin "{ipam.driver.name}" not found')
    subnets: list[IPv4Network] = []
    for pool in ipam.configs:
        if ":" in pool.subnet:
            raise NotSupported("IPAM.Config: IPv6 subnets are not supported")
        if not pool.subnet:
            if pool.gateway or pool.range or pool.auxiliary:
                raise InvalidArgument("IPAM.Config: Gateway, IPRange and AuxiliaryAddresses need a Subnet")
            continue
        network = make_subnet(pool.subnet, pool.gateway, pool.range, pool.auxiliary).network
        if any(network.overlaps(other) for other in subnets):
            raise InvalidArgument(f"IPAM.Config: the subnets overlap at {network}")
        subnets.append(network)
    return msgspec.structs.replace(
        spec, driver_configuration=msgspec.structs.replace(spec.driver_configuration, name=OVERLAY)
    )


def _options(options: dict[str, str]) -> None:
    if options.get("encrypted", "false").lower() not in ("false", "0"):
        raise NotSupported(
            "encrypted overlay networks are not supported: packets between nodes can't be encrypted here, and they "
            "are never sent in clear where encryption was asked for"
        )
    mtu = options.get(OPTION_MTU, "1450")
    if not mtu.isdecimal() or int(mtu) not in _MTU:
        raise InvalidArgument(f"invalid {OPTION_MTU} {mtu!r}: a number from 68 to 65535")


def check_new(view: View, spec: NetworkSpec) -> None:
    """Raises Conflict when the name is taken, Forbidden when a pool overlaps with another network's."""
    if view.network_named(spec.name) is not None:
        raise Conflict(f"network with name {spec.name} already exists")
    taken = [IPv4Network(pool.subnet) for network in view.all(SwarmNetwork) for pool in network.pools]
    for pool in spec.ipam_options.configs:
        if pool.subnet and any(IPv4Network(pool.subnet).overlaps(other) for other in taken):
            raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")


def check_unused(view: View, network: SwarmNetwork) -> None:
    """Raises Forbidden for the ingress network and for one that services or tasks use. Tasks that are only on their way
    out don't count: their hosts keep what they need to the end."""
    if network.spec.ingress:
        raise Forbidden(f"{network.spec.name} is a pre-defined network and cannot be removed")
    for service in view.all(Service):
        if any(attachment.target == network.id for attachment in service.spec.task_template.networks):
            raise Forbidden(f"network {network.id} is in use by service {service.id}")
    for task in view.all(Task):
        wanted = task.desired_state <= TaskState.RUNNING and not task.status.state.terminal
        if wanted and any(place.network_id == network.id for place in task.networks):
            raise Forbidden(f"network {network.spec.name} is in use by task {task.id}")


def find_network(view: View, ref: str) -> SwarmNetwork:
    """By id, name or unique prefix of an id. Raises NotFound `network x not found`, InvalidArgument (ambiguous)."""
    exact = view.get(SwarmNetwork, ref) or view.network_named(ref)
    if exact is not None:
        return exact
    found = [network for network in view.all(SwarmNetwork) if ref and network.id.startswith(ref)]
    if not found:
        raise NotFound(f"network {ref} not found")
    if len(found) > 1:
        raise InvalidArgument(f"network {ref} is ambiguous ({len(found)} matches found on ID prefix)")
    return found[0]


def with_networks(view: View, spec: ServiceSpec) -> ServiceSpec:
    """The spec with its networks by id, all of them in the task template: the older place, beside it, means the same,
    and what tasks are made from should be in one place. Raises NotFound, Forbidden, InvalidArgument, NotSupported."""
    mesh_is_local(spec.labels)
    found: dict[str, NetworkAttachmentConfig] = {}
    for attachment in attachments(spec):
        network = find_network(view, attachment.target)
        if network.spec.ingress:
            raise InvalidArgument(f'Service cannot be explicitly attached to the ingress network "{network.spec.name}"')
        found.setdefault(network.id, msgspec.structs.replace(attachment, target=network.id))
    template = msgspec.structs.replace(spec.task_template, networks=list(found.values()))
    return msgspec.structs.replace(spec, task_template=template, networks=[])
