"""What the node needs of a transport, and what a transport tells it. Losing messages is allowed; forging is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from raft.core.messages import Message


class TransportEvents(Protocol):
    """Called on the event loop; every call returns at once."""

    def receive(self, message: Message) -> None: ...

    def connection_lost(self, peer: int) -> None:
        """A connection that had worked broke."""
        ...

    def unreachable(self, peer: int) -> None:
        """Messages to the peer were dropped."""
        ...

    def snapshot_done(self, peer: int, *, delivered: bool) -> None: ...


class Transport(Protocol):
    async def run(self, raft_id: int, events: TransportEvents) -> None:
        """Carry messages until cancelled."""
        ...

    def set_peers(self, peers: Mapping[int, str]) -> None:
        """Addresses of the members other than this one; links to others end once they have sent what they hold."""
        ...

    def send(self, messages: Iterable[Message]) -> None:
        """Queue messages; what does not fit is dropped and reported."""
        ...
