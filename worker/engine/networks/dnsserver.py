"""The embedded DNS server: sockets inside a container's namespace, served by the daemon's loop.

A server listens on free ports of 127.0.0.11 in the namespace; two nftables rules there lead port 53 to it, so that a
DNS server inside the container may bind port 53. What is not a container's name goes to upstream servers from the
host's own namespace, but never for a container whose networks are all internal.

Invariant: a server's sockets are closed by `close`, else they would keep the namespace alive.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from base.offload import Pool
from base.supervise import TaskOwner
from worker.engine.networks import rules
from worker.engine.networks.dns import MESSAGE_BYTES_MAX, Forward, answer, fits
from worker.engine.networks.files import EMBEDDED_DNS
from worker.engine.networks.nft import apply_here
from worker.engine.syscalls import netns

log = logging.getLogger(__name__)

PORT = 53
FORWARDS_MAX = 256
"""Questions of one container that wait for upstream; more are answered SERVFAIL."""
CONNECTIONS_MAX = 64
"""TCP clients of one container; more are turned away."""
UPSTREAM_S = 2.0
UPSTREAMS_MAX = 3
TCP_IDLE_S = 10.0

Lookup = Callable[[str], list[str] | None]
Reverse = Callable[[str], str | None]


def open_sockets(namespace: Path) -> tuple[socket.socket, socket.socket]:
    """(UDP, listening TCP) inside the namespace, with port 53 led to them. Blocking. On failure nothing is open."""

    def inside() -> tuple[socket.socket, socket.socket]:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            udp.bind((EMBEDDED_DNS, 0))
            tcp.bind((EMBEDDED_DNS, 0))
            tcp.listen(16)
            apply_here(rules.resolver_table(udp.getsockname()[1], tcp.getsockname()[1]))
        except BaseException:
            udp.close()
            tcp.close()
            raise
        return udp, tcp

    return netns.call(namespace, inside)


class DnsServer(asyncio.DatagramProtocol):
    """Serves one container. `upstreams` is asked at each question: () means nobody is asked."""

    def __init__(
        self, lookup: Lookup, reverse: Reverse, upstreams: Callable[[], Sequence[str]], port: int = PORT
    ) -> None:
        self._lookup = lookup
        self._reverse = reverse
        self._upstreams = upstreams
        self._port = port
        self._chance = random.Random()
        self._owner = TaskOwner("dns")
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._udp_gone = asyncio.Event()
        self._waiting = 0
        self._clients = 0

    async def serve(self, udp: socket.socket, tcp: socket.socket) -> None:
        """Takes the sockets over."""
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, sock=udp)
        self._tcp = await asyncio.start_server(self._client, sock=tcp)

    async def close(self) -> None:
        """Close all sockets, end all that waits."""
        if self._tcp is not None:
            self._tcp.close()
        await self._owner.close()
        if self._udp is not None:
            self._udp.abort()
            await self._udp_gone.wait()

    # --- UDP --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._udp = cast(asyncio.DatagramTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._udp_gone.set()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        todo = answer(data, self._lookup, self._reverse, self._chance, udp=True)
        if not isinstance(todo, Forward):
            self._send(todo.wire, addr)
        elif self._waiting >= FORWARDS_MAX:
            self._send(todo.failure, addr)
        else:
            self._owner.spawn(self._forward_datagram(data, addr, todo.failure), name="forward")

    def error_received(self, exc: Exception) -> None:
        log.debug("dns datagram lost error=%s", exc)

    def _send(self, wire: bytes, addr: Any) -> None:
        if wire and self._udp is not None and not self._udp.is_closing():
            self._udp.sendto(wire, addr)

    async def _forward_datagram(self, question: bytes, addr: Any, failure: bytes) -> None:
        self._send(await self._forward(question, failure, _ask_udp), addr)

    # --- TCP --------------------------------------------------------------------------------------------------

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; owned by the server's owner, so that `close` ends it."""
        if self._clients >= CONNECTIONS_MAX:
            writer.close()
            return
        self._owner.spawn(self._converse(reader, writer), name="tcp")

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE_S):
                    (length,) = struct.unpack(">H", await reader.readexactly(2))
                    question = await reader.readexactly(length)
                todo = answer(question, self._lookup, self._reverse, self._chance, udp=False)
                wire = await self._forward(question, todo.failure, _ask_tcp) if isinstance(todo, Forward) else todo.wire
                if not wire:
                    return
                writer.write(struct.pack(">H", len(wire)) + wire)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError, TimeoutError):
            return  # the client is gone or silent
        finally:
            self._clients -= 1
            writer.close()

    # --- upstream ---------------------------------------------------------------------------------------------

    async def _forward(self, question: bytes, failure: bytes, ask: Any) -> bytes:
        """The first upstream's answer, or `failure`."""
        self._waiting += 1
        try:
            for server in self._upstreams()[:UPSTREAMS_MAX]:
                try:
                    async with asyncio.timeout(UPSTREAM_S):
                        wire: bytes = await ask(question, server, self._port)
                        return wire
                except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                    log.debug("dns upstream failed server=%s error=%r", server, error)
            return failure
        finally:
            self._waiting -= 1


async def _ask_udp(question: bytes, server: str, port: int) -> bytes:
    """From a fresh socket (the kernel draws its port); answers that don't fit the question are passed over."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as client:
        client.connect((server, port))
        await loop.sock_sendall(client, question)
        while True:
            response = await loop.sock_recv(client, MESSAGE_BYTES_MAX)
            if fits(question, response):
                return response


async def _ask_tcp(question: bytes, server: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(server, port)
    try:
        writer.write(struct.pack(">H", len(question)) + question)
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        response = await reader.readexactly(length)
    finally:
        writer.close()
    if not fits(question, response):
        raise ConnectionResetError(f"{server} answered another question")
    return response


class DnsServers:
    """The servers of all sandboxes that have one, by sandbox id."""

    def __init__(self) -> None:
        self._pool = Pool("dns", 2)
        self._servers: dict[str, DnsServer] = {}

    async def start(self, key: str, namespace: Path, server: DnsServer) -> None:
        """Serve inside `namespace`; one that ran under the key is replaced. Raises OSError, Internal."""
        await self.stop(key)
        udp, tcp = await self._pool.run(open_sockets, namespace)
        self._servers[key] = server
        await server.serve(udp, tcp)

    async def stop(self, key: str) -> None:
        """Idempotent."""
        server = self._servers.pop(key, None)
        if server is not None:
            await server.close()

    async def close(self) -> None:
        for key in list(self._servers):
            await self.stop(key)
        await asyncio.to_thread(self._pool.close)
