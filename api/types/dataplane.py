"""What a node must know to be on swarm networks: plain values, derived from the store by the managers, carried in
assignments, and put into the kernel by the engine.

An overlay is told as one `Overlay` and one `OverlayService` for each service on it. Hardware addresses are not told:
they follow from the addresses (`api.wire.ipam.mac_of`).
"""

from __future__ import annotations

from api.types.base import Record


class OverlayPool(Record, frozen=True, kw_only=True):
    subnet: str
    gateway: str


class OverlayGate(Record, frozen=True, kw_only=True):
    """Another node's gate of the routing mesh: its address on the ingress network, and the node's underlay address."""

    address: str
    node: str


class Overlay(Record, frozen=True, kw_only=True):
    """One network as one node sees it."""

    id: str
    name: str
    vni: int
    pools: list[OverlayPool]
    local: str
    """The node's own underlay address: where others send its packets."""
    mtu: int = 1450
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    gate: str = ""
    """This node's address with prefix length on the ingress network."""
    gates: list[OverlayGate] = []
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    created_ns: int = 0


class OverlayTask(Record, frozen=True, kw_only=True):
    """A task that is on its node, running or not."""

    id: str
    name: str
    address: str
    node: str
    """Underlay address of its node."""
    serving: bool = False
    """Running and meant to: it is given new connections, and its names resolve."""
    container_id: str = ""


class OverlayPort(Record, frozen=True, kw_only=True):
    protocol: str
    published: int
    target: int


class OverlayService(Record, frozen=True, kw_only=True):
    """A service on one network."""

    network_id: str
    id: str
    name: str
    vip: str = ""
    """Empty: its name leads to the tasks themselves (dnsrr)."""
    aliases: list[str] = []
    tasks: list[OverlayTask] = []
    ports: list[OverlayPort] = []
    """Published ones; on the ingress network only."""
    local_only: bool = False
    """The mesh leads connections to tasks of the node that took them, and nowhere else."""

    @property
    def key(self) -> str:
        return f"{self.network_id}/{self.id}"


class OverlayChange(Record, frozen=True, kw_only=True):
    """What changes for a node, brought up to `index`. With `complete`, what is not named is gone."""

    index: int
    complete: bool = False
    update: list[Overlay] = []
    remove: list[str] = []
    """Network ids; their services go with them."""
    update_services: list[OverlayService] = []
    remove_services: list[str] = []
