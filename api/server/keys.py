"""What the server keeps on a request while it is handled."""

from __future__ import annotations

from aiohttp import web

from api.server.raw import RawStream
from api.wire.versions import Version

VERSION: web.RequestKey[Version] = web.RequestKey("version", tuple)
"""The API version it is served with."""
HEADERS: web.RequestKey[dict[str, str]] = web.RequestKey("headers", dict)
"""Headers that every answer carries."""
STREAMING: web.RequestKey[web.StreamResponse] = web.RequestKey("streaming", web.StreamResponse)
"""The answer whose head has been sent, if it is a stream."""
HIJACKED: web.RequestKey[RawStream] = web.RequestKey("hijacked", RawStream)
"""The stream that took over the connection, if any."""
