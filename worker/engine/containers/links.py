"""Links between containers (v1.24 Links): names for others, and environment variables on the default bridge.

On a network of the user's own a link is an alias that the embedded DNS answers. On the default bridge it is read once,
when the container starts: a line in its hosts file and variables about the linked container's ports. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from api.errors import InvalidArgument
from api.types.container import HostConfig

_LEFT_OUT = ("HOME", "PATH")
_DEFAULT_NETWORKS = ("", "default", "bridge")


@dataclass(frozen=True)
class Linked:
    """A container that another one links to, while it runs."""

    alias: str
    id: str
    name: str
    hostname: str
    address: str
    env: tuple[str, ...]
    ports: tuple[str, ...]
    """`80/tcp`, ..."""


def parse_link(text: str) -> tuple[str, str]:
    """`name:alias` or `name` -> (name, alias). Raises InvalidArgument with Docker's text."""
    parts = text.split(":")
    if not text or len(parts) > 2 or not all(parts):
        raise InvalidArgument(f"bad format for links: {text}")
    name = parts[0].lstrip("/")
    # `/name:/other/alias` is how an inspected link is written.
    return name, parts[-1].rpartition("/")[2] or name


def on_default_bridge(host: HostConfig) -> bool:
    return host.network_mode in _DEFAULT_NETWORKS


def host_entry(linked: Linked) -> str:
    """An extra host: all names of one address."""
    names = dict.fromkeys(name for name in (linked.alias, linked.hostname, linked.name) if name)
    return f"{' '.join(names)}:{linked.address}"


def variables(parent: str, linked: Linked) -> list[str]:
    """What the linking container `parent` finds in its environment, by the alias in capitals."""
    prefix = linked.alias.replace("-", "_").upper()
    found: list[str] = []
    ports = sorted(_split(linked.ports))
    if ports:
        number, protocol = ports[0]
        found.append(f"{prefix}_PORT={protocol}://{linked.address}:{number}")
    for number, protocol in ports:
        one = f"{prefix}_PORT_{number}_{protocol.upper()}"
        found += [
            f"{one}={protocol}://{linked.address}:{number}",
            f"{one}_ADDR={linked.address}",
            f"{one}_PORT={number}",
            f"{one}_PROTO={protocol}",
        ]
    found.append(f"{prefix}_NAME=/{parent}/{linked.alias}")
    for entry in linked.env:
        name, equals, value = entry.partition("=")
        if equals and name not in _LEFT_OUT:
            found.append(f"{prefix}_ENV_{name}={value}")
    return found


def _split(ports: Iterable[str]) -> Iterable[tuple[int, str]]:
    for port in ports:
        number, _, protocol = port.partition("/")
        yield int(number), protocol or "tcp"


def shown(links: Iterable[str], parent: str, names: Mapping[str, str]) -> list[str] | None:
    """As inspected: `/name:/parent/alias`; `names` by the reference in the link."""
    found = [f"/{names.get(name, name)}:/{parent}/{alias}" for name, alias in map(parse_link, links)]
    return found or None
