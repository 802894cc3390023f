"""The part of the daemon's configuration that networking reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path

from api.errors import InvalidArgument
from api.wire.ipam import AddressPools
from worker.engine.networks.links import INTERFACE_NAME_MAX
from worker.engine.networks.rules import ANY


@dataclass(frozen=True)
class NetworkConfig:
    """Names are those of dockerd's flags."""

    bridge: str = "shoal0"
    """Link of the predefined network `bridge`."""
    bip: str = ""
    """Its gateway with prefix length, as `172.17.0.1/16`; empty: the first free default pool."""
    pools: AddressPools = field(default_factory=AddressPools)
    mtu: int = 1500
    ip: str = ANY
    """Host address of published ports that name none."""
    icc: bool = True
    ip_masq: bool = True
    dns: tuple[str, ...] = ()
    resolv_conf: Path = Path("/etc/resolv.conf")
    hosts: Path = Path("/etc/hosts")

    def validate(self) -> None:
        """Raises InvalidArgument naming the flag."""
        if not 0 < len(self.bridge) <= INTERFACE_NAME_MAX:
            raise InvalidArgument(f"--bridge {self.bridge!r}: a link name has 1 to {INTERFACE_NAME_MAX} bytes")
        if self.bip:
            try:
                IPv4Interface(self.bip)
            except ValueError:
                raise InvalidArgument(f"--bip {self.bip!r}: not an address with a prefix length") from None
