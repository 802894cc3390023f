"""One connection of a monitor: frames in, a bounded buffer of frames out. Standard library only.

A connection never blocks the monitor: what the peer does not take waits in the buffer, and the monitor decides by
`lag` and `stalled_for` what becomes of a slow one.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from itertools import islice

from worker.engine.runtime import frames

READ_BYTES = 64 * 1024


class Connection:
    """A non-blocking frame connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self.fd = connection.fileno()
        self.role = 0
        """0 until the first frame, then frames.ATTACH or frames.CONTROL."""
        self.gave_stdin = False
        self.lag = 0
        """Bytes that wait for the peer to take them."""
        self._out: deque[memoryview] = deque()
        self._parser = frames.Parser()
        self._progress = 0.0
        self._broken = False

    def receive(self) -> list[tuple[int, bytes]] | None:
        """The frames that arrived; None when the peer has gone or speaks nonsense."""
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        try:
            return self._parser.feed(data)
        except frames.FrameError:
            return None

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Queue a frame and write what the peer takes now."""
        if self._broken:
            return
        if not self._out:
            self._progress = time.monotonic()
        content = memoryview(frames.frame(kind, payload))
        self._out.append(content)
        self.lag += len(content)
        self.flush()

    def flush(self) -> None:
        """Write what the peer takes now. Once it has gone all output is dropped; what it said before its end can
        still be received."""
        while self._out:
            try:
                written = os.writev(self.fd, list(islice(self._out, 16)))
            except BlockingIOError:
                return
            except OSError:
                self._broken = True
                self._out.clear()
                self.lag = 0
                return
            self._progress = time.monotonic()
            self.lag -= written
            while written:
                first = self._out[0]
                if written < len(first):
                    self._out[0] = first[written:]
                    break
                written -= len(first)
                self._out.popleft()

    def stalled_for(self) -> float:
        """Seconds since the peer last took anything while something waits; 0 if nothing waits."""
        return time.monotonic() - self._progress if self._out else 0.0

    def close(self) -> None:
        self._socket.close()
