"""The two calls between members, and their bounds."""

from __future__ import annotations

import msgspec

from api.rpc.methods import MESSAGE_BYTES_MAX, Method, Shape
from raft.core.messages import Append, InstallSnapshot, Message

ENVELOPE_BYTES = 1024 * 1024
"""An envelope is closed once it holds this much; one Append may add its own maximum."""
ENVELOPE_MESSAGES = 256
QUEUE_MESSAGES = 1024
"""To one peer; beyond it messages are dropped, and Raft sends again."""
CHUNK_BYTES = 1024 * 1024
SNAPSHOT_BYTES_MAX = 1024 * 1024 * 1024
"""A snapshot is assembled in memory: more than this is refused."""
SNAPSHOT_TIMEOUT_S = 300.0

assert 2 * ENVELOPE_BYTES + 512 * 1024 < MESSAGE_BYTES_MAX
assert 2 * CHUNK_BYTES < MESSAGE_BYTES_MAX


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    messages: tuple[Message, ...]
    addr: str = ""
    """Where the sender listens: a member that joins knows nobody's address yet."""


class SnapshotChunk(msgspec.Struct, frozen=True, kw_only=True):
    head: InstallSnapshot | None = None
    """First chunk only: the message without its data."""
    addr: str = ""
    data: bytes = b""
    digest: bytes = b""
    """Last chunk only: blake2b of all data."""


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    pass


MESSAGES = Method("/shoal.Raft/Messages", Envelope, Ack, Shape.CLIENT_STREAM)
SNAPSHOT = Method("/shoal.Raft/Snapshot", SnapshotChunk, Ack, Shape.CLIENT_STREAM)


def weight(message: Message) -> int:
    """About how many bytes a message takes on the wire."""
    if isinstance(message, Append):
        return 64 + sum(len(entry.data) + 16 for entry in message.entries)
    return 64
