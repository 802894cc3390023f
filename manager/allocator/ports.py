"""Published ports: one owner each, those left open taken from the dynamic range. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

import msgspec

from api.types.objects import Endpoint, Service
from api.types.swarm import EndpointSpec, PortConfig

DYNAMIC_MIN = 30_000
DYNAMIC_MAX = 32_767

Port = tuple[str, int]
"""(protocol, published port)"""


@dataclass(frozen=True)
class Exhausted:
    """No port of the dynamic range is free for this protocol."""

    protocol: str


def ports_of(services: Iterable[Service], *, but: str = "") -> set[Port]:
    """The published ports that services hold or ask for, without those of service `but`."""
    taken: set[Port] = set()
    for service in services:
        if service.id == but:
            continue
        spec = service.spec.endpoint_spec
        for port in [*(service.endpoint.ports if service.endpoint else []), *(spec.ports if spec else [])]:
            if port.published_port:
                taken.add((port.protocol, port.published_port))
    return taken


def is_allocated(service: Service) -> bool:
    """Whether the endpoint fulfils the spec."""
    wanted = service.spec.endpoint_spec or EndpointSpec()
    endpoint = service.endpoint
    if endpoint is None or endpoint.mode != wanted.mode or len(endpoint.ports) != len(wanted.ports):
        return False
    return all(_fulfils(want, have) for want, have in zip(wanted.ports, endpoint.ports, strict=True))


def _fulfils(want: PortConfig, have: PortConfig) -> bool:
    if not have.published_port or want.published_port not in (0, have.published_port):
        return False
    return have == msgspec.structs.replace(want, published_port=have.published_port)


def allocate(service: Service, taken: Set[Port]) -> Endpoint | Exhausted:
    """The endpoint for a service; a port that it had keeps its number where the spec leaves it open."""
    wanted = service.spec.endpoint_spec or EndpointSpec()
    before = {(port.name, port.protocol, port.target_port): port for port in _had(service)}
    used = set(taken) | {(port.protocol, port.published_port) for port in wanted.ports if port.published_port}
    ports: list[PortConfig] = []
    for port in wanted.ports:
        number = port.published_port
        if not number:
            old = before.get((port.name, port.protocol, port.target_port))
            number = _pick(port.protocol, old.published_port if old is not None else 0, used)
            if not number:
                return Exhausted(port.protocol)
        used.add((port.protocol, number))
        ports.append(msgspec.structs.replace(port, published_port=number))
    virtual_ips = service.endpoint.virtual_ips if service.endpoint is not None else []
    return Endpoint(mode=wanted.mode, ports=ports, virtual_ips=virtual_ips)


def _had(service: Service) -> list[PortConfig]:
    return service.endpoint.ports if service.endpoint is not None else []


def _pick(protocol: str, preferred: int, used: Set[Port]) -> int:
    """A free port of the range, 0 when there is none."""
    candidates: tuple[int, ...] = (preferred, *range(DYNAMIC_MIN, DYNAMIC_MAX + 1))
    for number in candidates:
        if DYNAMIC_MIN <= number <= DYNAMIC_MAX and (protocol, number) not in used:
            return number
    return 0
