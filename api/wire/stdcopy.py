"""Docker's multiplexed stream: an 8-byte head before each piece of output (v1.24 "Attach to a container").

Head: stream id (0 stdin, 1 stdout, 2 stderr), three zero bytes, payload length as big-endian uint32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_HEAD = struct.Struct(">BxxxL")
FRAME_BYTES_MAX = 16 * 1024 * 1024
"""A length beyond this is taken for a broken stream."""


def frame(stream_id: int, data: bytes) -> bytes:
    """One frame."""
    return _HEAD.pack(stream_id, len(data)) + data


class Deframer:
    """Turns bytes, cut anywhere, back into (stream id, data)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames that are complete by now. Raises ValueError for a head that can't be."""
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            stream_id, length = _HEAD.unpack_from(self._buffer)
            if stream_id > 2 or length > FRAME_BYTES_MAX:
                raise ValueError(f"not a stream frame: stream {stream_id}, {length} bytes")
            if len(self._buffer) < _HEAD.size + length:
                return
            payload = bytes(self._buffer[_HEAD.size : _HEAD.size + length])
            del self._buffer[: _HEAD.size + length]
            yield stream_id, payload
