"""Sessions: one a node, identified by an id that changes with each. Pure bookkeeping; streams ask `ended`."""

from __future__ import annotations

from api import errors
from base.ids import swarm_id
from manager.dispatcher.signals import Signal


class Session:
    """One node's session with this dispatcher. Its streams end when it does."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.id = swarm_id()
        self.ended: errors.ShoalError | None = None
        self._signals: set[Signal] = set()

    def end(self, reason: errors.ShoalError) -> None:
        """No more messages; streams that wait wake up and fail with the reason."""
        self.ended = self.ended or reason
        for signal in self._signals:
            signal.wake()

    def attach(self, signal: Signal) -> None:
        """A stream that is to hear of the end."""
        self._signals.add(signal)

    def detach(self, signal: Signal) -> None:
        self._signals.discard(signal)

    def check(self) -> None:
        """Raises the reason once the session has ended."""
        if self.ended is not None:
            raise self.ended


class Sessions:
    """The sessions of this manager's time as leader."""

    def __init__(self) -> None:
        self._by_node: dict[str, Session] = {}

    def open(self, node_id: str) -> Session:
        """A new session; an older one of the same node ends."""
        self.end(node_id, errors.NotFound("invalid session: the node has opened a newer one"))
        session = self._by_node[node_id] = Session(node_id)
        return session

    def require(self, node_id: str, session_id: str) -> Session:
        """The session, if that is the node's present one. Raises NotFound otherwise: the node must register anew."""
        session = self._by_node.get(node_id)
        if session is None or session.id != session_id or session.ended is not None:
            raise errors.NotFound("invalid session")
        return session

    def end(self, node_id: str, reason: errors.ShoalError) -> None:
        session = self._by_node.pop(node_id, None)
        if session is not None:
            session.end(reason)

    def end_all(self, reason: errors.ShoalError) -> None:
        for node_id in list(self._by_node):
            self.end(node_id, reason)
