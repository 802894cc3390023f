"""All connections of a monitor, and how much of the process's output may wait for them. Standard library only.

It keeps: a slow attacher holds the process back for a while and loses nothing; one that takes nothing is cut off, so
that it holds back nobody for long.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

from worker.engine.runtime.attachers import Connection
from worker.engine.runtime.reactor import GONE, IN, OUT, Reactor

MAX_LAG = 1024 * 1024
"""What may wait for one attacher; at this the monitor stops reading the process until the attacher has taken some."""
HOLD_SECONDS = 0.5
"""An attacher that takes nothing for so long no longer holds the process back: what it misses is kept for it, up to
MAX_SPILL."""
MAX_SPILL = 16 * 1024 * 1024
STALL_SECONDS = 5.0
"""An attacher for which MAX_SPILL is kept and that still takes nothing is cut off after so long."""


def listen(path: str) -> socket.socket:
    """A non-blocking unix socket that listens at `path`. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(64)
    listener.setblocking(False)
    return listener


class Peers:
    """The connections that are open now."""

    def __init__(
        self,
        reactor: Reactor,
        frame: Callable[[Connection, int, bytes], None],
        heard: Callable[[Connection], bool],
        changed: Callable[[], None],
    ) -> None:
        """
        Args:
            frame: gets each frame that arrives.
            heard: whether a connection may send more now.
            changed: what waits for connections has changed, or one has gone.
        """
        self._reactor = reactor
        self._frame = frame
        self._heard = heard
        self._changed = changed
        self._open: dict[int, Connection] = {}

    def __iter__(self) -> Iterator[Connection]:
        """A snapshot: connections may go meanwhile."""
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def serve(self, listener: socket.socket) -> None:
        """Take whoever connects."""

        def accepted(_: int) -> None:
            try:
                self.add(listener.accept()[0])
            except OSError:
                pass  # it went away again, or descriptors are short: the peer sees a refused or closed connection

        self._reactor.add(listener.fileno(), IN, accepted)

    def add(self, peer: socket.socket) -> None:
        connection = Connection(peer)
        self._open[connection.fd] = connection
        self._reactor.add(connection.fd, IN, lambda events: self._ready(connection, events))

    def _ready(self, connection: Connection, events: int) -> None:
        if events & OUT:
            connection.flush()
        if events & (IN | GONE):
            received = connection.receive()
            if received is None:
                self.hang_up(connection)
                return
            for kind, payload in received:
                self._frame(connection, kind, payload)
        self.update(connection)

    def send(self, connection: Connection, kind: int, payload: bytes = b"") -> None:
        """Nothing when it has gone."""
        if connection.fd in self._open:
            connection.send(kind, payload)
            self.update(connection)

    def update(self, connection: Connection) -> None:
        """Ask the kernel for what this connection can use now."""
        if connection.fd in self._open:
            self._reactor.change(connection.fd, (IN if self._heard(connection) else 0) | (OUT if connection.lag else 0))
            self._changed()

    def hang_up(self, connection: Connection) -> None:
        if self._open.pop(connection.fd, None) is not None:
            self._reactor.drop(connection.fd)
            connection.close()
            self._changed()

    @property
    def lagging(self) -> bool:
        """Something waits for one of them."""
        return any(connection.lag for connection in self._open.values())

    def allow_reading(self, reading: bool) -> bool:
        """Whether more output may be read, when it is read now or is not. One that takes nothing holds the process back
        only when much is kept for it."""
        most = MAX_LAG if reading else MAX_LAG // 2
        return not any(
            each.lag >= (most if each.stalled_for() < HOLD_SECONDS else MAX_SPILL) for each in self._open.values()
        )

    def cut_off_stalled(self) -> None:
        for connection in self:
            if connection.lag >= MAX_SPILL and connection.stalled_for() > STALL_SECONDS:
                self.hang_up(connection)
