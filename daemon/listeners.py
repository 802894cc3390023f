"""The sockets the API is served on. A unix socket is taken over only when nobody answers on it."""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import socket
from pathlib import Path

from api.errors import Conflict, InvalidArgument
from api.server.app import App
from daemon.config import Config, split_host

log = logging.getLogger(__name__)
BACKLOG = 1024


def forget_sockets(config: Config) -> None:
    """Remove the unix sockets after the API has closed, so that clients see at once that nobody is there."""
    for host in config.hosts:
        scheme, address, _ = split_host(host)
        if scheme == "unix":
            Path(address).unlink(missing_ok=True)


async def listen(app: App, config: Config) -> None:
    """Open every configured socket. Raises Conflict when one is in use; then none stays open."""
    loop = asyncio.get_running_loop()
    for host in config.hosts:
        scheme, address, port = split_host(host)
        if scheme == "unix":
            sock = _unix_socket(Path(address), config.group)
            app.add_listener(await loop.create_unix_server(app.protocol_factory(), sock=sock, backlog=BACKLOG))
        else:
            if address not in ("127.0.0.1", "::1", "localhost"):
                log.warning("the API listens without TLS: whoever reaches it owns this machine host=%s", host)
            try:
                server = await loop.create_server(app.protocol_factory(), address, port, backlog=BACKLOG)
            except OSError as error:
                raise Conflict(f"can't listen on {host}: {error.strerror or error}") from None
            app.add_listener(server)
        log.info("listening host=%s", host)


def _unix_socket(path: Path, group: str) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise Conflict(f"can't listen on unix://{path}: another daemon answers on it")
            path.unlink()
        mask = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(mask)
        if group:
            try:
                os.chown(path, 0, int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid)
            except KeyError:
                raise InvalidArgument(f"group: {group} does not exist") from None
        os.chmod(path, 0o660)
    except BaseException:
        sock.close()
        raise
    return sock
