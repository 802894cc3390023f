"""Finding requests that will take over the connection, before the HTTP parser swallows what follows them.

A client that attaches may send its stdin right behind the request. So the head of such a request is looked at first:
what belongs to the request goes to the parser, what follows is kept for the stream. `Upgrade` headers are renamed to
`X-Upgrade` on the way, so that a parser which knows only websockets leaves them alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD_BYTES_MAX = 128 * 1024
"""A head longer than this is left to the parser, which refuses it."""

UPGRADE_HEADER = "X-Upgrade"

_TAKES_OVER = re.compile(rb"POST [^ ]*/(?:containers/[^/ ?]+/attach|exec/[^/ ?]+/start)(?:\?[^ ]*)? HTTP/1\.[01]\r\n")
_UPGRADE = re.compile(rb"\r\nupgrade:[ \t]*(?:tcp|h2c)[ \t]*(?=\r\n)", re.IGNORECASE)
_CONNECTION = re.compile(rb"\r\nconnection:[ \t]*upgrade[ \t]*(?=\r\n)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:", re.IGNORECASE)


@dataclass(frozen=True)
class Cut:
    """Where a request that takes over ends."""

    head: bytes
    """To give to the parser in place of the first `head_bytes` of the input."""
    head_bytes: int
    body_bytes: int
    """Body that still belongs to the request."""


def complete(data: bytes | bytearray) -> bool:
    """The whole head is here (or it is too long to wait for)."""
    return b"\r\n\r\n" in data or len(data) > HEAD_BYTES_MAX


def cut(data: bytes | bytearray) -> Cut | None:
    """How to cut a request that takes over the connection; None for every other request.

    `data` begins at a request's first byte and holds its whole head. A chunked body is None too: its end can't be
    told from here, and no client sends one with these requests.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(data[: end + 4])
    upgrade = _UPGRADE.search(head)
    if upgrade is None and _TAKES_OVER.match(head) is None:
        return None
    if _CHUNKED.search(head) or _EXPECT.search(head):
        return None
    length = _LENGTH.search(head)
    if upgrade is not None:
        head = _CONNECTION.sub(b"", head)
        head = _UPGRADE.sub(b"\r\n" + UPGRADE_HEADER.encode() + b": tcp", head)
    return Cut(head=head, head_bytes=end + 4, body_bytes=int(length.group(1)) if length else 0)
