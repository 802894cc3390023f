"""The wire between daemon and monitor, on a unix stream socket: frames of a type byte, a length and a payload.

Shared by both sides, so standard library only. A connection's first frame says what it is: ATTACH (output, and stdin
back) or CONTROL (start, resize, the exit). The monitor answers READY, FAILED or ENDED to it.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct(">BI")
SIZE = struct.Struct(">HH")
"""Height, width of a resize."""
MAX_PAYLOAD = 1024 * 1024

# both ways: data, by the number of the descriptor
STDIN, STDOUT, STDERR = 0, 1, 2
# to the monitor
ATTACH, CONTROL, CLOSE_STDIN, DETACH, RESIZE, START = 10, 11, 12, 13, 14, 15
# from the monitor
READY, FAILED, ENDED, STARTED, EXIT, LISTENING = 20, 21, 22, 23, 24, 25
"""READY: JSON {"pid": N, "log": where it ends now, for attachers (jsonfile.place)}.
FAILED: text. ENDED: nothing. STARTED: error text, empty if it went well.
EXIT: JSON {"code", "at_ns", "oom", "error"}, the last frame of a connection. LISTENING: to the first control
connection, when attachers can connect."""


class FrameError(Exception):
    """The other side sent what is no frame."""


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One frame; the payload is at most MAX_PAYLOAD bytes."""
    return HEADER.pack(kind, len(payload)) + payload


class Parser:
    """Frames out of a byte stream, however it is chopped."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that `data` completes, in order.

        Raises:
            FrameError: a payload is longer than allowed; the connection is of no more use.
        """
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            kind, length = HEADER.unpack_from(self._buffer, start)
            if length > MAX_PAYLOAD:
                raise FrameError(f"a payload of {length} bytes is longer than {MAX_PAYLOAD}")
            end = start + HEADER.size + length
            if end > len(self._buffer):
                break
            frames.append((kind, bytes(self._buffer[start + HEADER.size : end])))
            start = end
        del self._buffer[:start]
        return frames
