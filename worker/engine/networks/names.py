"""Who is called what on which network: the records the embedded DNS answers from, and links write into hosts files.

Kept in step with the sandboxes in memory; names are case-blind.
"""

from __future__ import annotations

from collections.abc import Iterable

from worker.engine.networks.records import EndpointRecord, SandboxRecord


class NameTable:
    """Per network: name to addresses, and address to the container's first name."""

    def __init__(self) -> None:
        self._forward: dict[tuple[str, str], dict[str, str]] = {}
        """(network id, name) to endpoint id -> address."""
        self._backward: dict[tuple[str, str], tuple[str, str]] = {}
        """(network id, address) to (container name, network name)."""

    def add(self, endpoint: EndpointRecord) -> None:
        if not endpoint.address:
            return
        for name in endpoint.names:
            self._forward.setdefault((endpoint.network_id, name.lower()), {})[endpoint.id] = endpoint.address
        if endpoint.names:
            self._backward[endpoint.network_id, endpoint.address] = (endpoint.names[0], endpoint.network_name)

    def remove(self, endpoint: EndpointRecord) -> None:
        """Idempotent."""
        for name in endpoint.names:
            key = (endpoint.network_id, name.lower())
            found = self._forward.get(key, {})
            found.pop(endpoint.id, None)
            if not found:
                self._forward.pop(key, None)
        self._backward.pop((endpoint.network_id, endpoint.address), None)

    def lookup(self, sandbox: SandboxRecord, name: str) -> list[str] | None:
        """Addresses of a name as seen from a sandbox; None if no network of it knows the name.

        A network's own name may follow (`web.backend`). Links of the sandbox come first.
        """
        name = name.rstrip(".").lower()
        for endpoint in sandbox.endpoints:
            for target, alias in map(split_link, endpoint.links):
                if alias.lower() == name and (found := self._on(endpoint, target)):
                    return found
        for endpoint in sandbox.endpoints:
            bare = name.removesuffix("." + endpoint.network_name.lower())
            if found := self._on(endpoint, name) or self._on(endpoint, bare):
                return found
        return None

    def _on(self, endpoint: EndpointRecord, name: str) -> list[str]:
        return list(self._forward.get((endpoint.network_id, name.lower()), {}).values())

    def reverse(self, sandbox: SandboxRecord, address: str) -> str | None:
        """`name.network` of an address on one of the sandbox's networks."""
        for endpoint in sandbox.endpoints:
            found = self._backward.get((endpoint.network_id, address))
            if found is not None:
                return ".".join(found)
        return None

    def linked(self, endpoints: Iterable[EndpointRecord]) -> list[tuple[str, str]]:
        """(address, names) of what the endpoints link to: for the hosts file of the default bridge."""
        entries: list[tuple[str, str]] = []
        for endpoint in endpoints:
            for target, alias in map(split_link, endpoint.links):
                names = " ".join(dict.fromkeys((alias, target)))
                entries.extend((address, names) for address in self._on(endpoint, target))
        return entries


def split_link(text: str) -> tuple[str, str]:
    """`container:alias` (or a name for both) to (container, alias)."""
    target, _, alias = text.partition(":")
    target = target.lstrip("/")
    return target, alias.rpartition("/")[2] or target
