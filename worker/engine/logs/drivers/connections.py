"""The connections that carry lines to their receivers. What was sent is what the receiver's kernel has taken.

`send` of a stream returns when the peer's kernel has acknowledged every byte (or its program, where the protocol has
acknowledgements), so that a receiver that dies takes no line with it that we count as sent. Datagrams have no such
answer: they are sent once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import socket
import struct
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

CONNECT_S = 10.0
SETTLE_S = 30.0
"""How long a receiver may take nothing before its connection counts as broken."""
LOOK_S = 0.01
LOCAL_SYSLOG = ("/dev/log", "/var/run/syslog", "/var/run/log")
JOURNAL = "/run/systemd/journal/socket"


class Link(Protocol):
    """A connection that is open. All raise OSError when it breaks (asyncio.TimeoutError is one)."""

    async def send(self, messages: Sequence[bytes], acks: Sequence[bytes] = ()) -> None:
        """In order; returns when the receiver has them, as far as can be told. `acks`: what must be heard back."""
        ...

    def close(self) -> None: ...


class DatagramLink:
    """UDP or a datagram socket in the file system: one message, one datagram."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    async def send(self, messages: Sequence[bytes], acks: Sequence[bytes] = ()) -> None:
        del acks  # only streams are answered
        loop = asyncio.get_running_loop()
        for message in messages:
            try:
                await loop.sock_sendall(self._socket, message)
            except OSError as error:
                # UDP's late news that nobody listened to an earlier datagram; and what no datagram can hold.
                if error.errno == errno.ECONNREFUSED and self._socket.family == socket.AF_UNIX:
                    raise
                if error.errno not in (errno.ECONNREFUSED, errno.EMSGSIZE):
                    raise

    def close(self) -> None:
        self._socket.close()


class StreamLink:
    """TCP or a stream socket in the file system."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, messages: Sequence[bytes], acks: Sequence[bytes] = ()) -> None:
        if self._reader.at_eof():
            raise ConnectionResetError("the receiver hung up")
        async with asyncio.timeout(SETTLE_S):
            self._writer.writelines(messages)
            await self._writer.drain()
            while self._unsent():
                if self._reader.at_eof():
                    raise ConnectionResetError("the receiver hung up")
                await asyncio.sleep(LOOK_S)
            heard = b""
            while not all(ack in heard for ack in acks):
                data = await self._reader.read(65536)
                if not data:
                    raise ConnectionResetError("the receiver hung up before it acknowledged")
                heard += data

    def _unsent(self) -> bool:
        transport = self._writer.transport
        if transport.is_closing():
            raise ConnectionResetError("the connection broke")
        if transport.get_write_buffer_size():
            return True
        plain: socket.socket = transport.get_extra_info("socket")
        left: int = struct.unpack("i", fcntl.ioctl(plain.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
        return left > 0

    def close(self) -> None:
        self._writer.transport.abort()


async def connect(transport: str, host: str, port: int = 0) -> Link:
    """`transport` is udp, tcp, unix or unixgram, or "" for this host's own syslog.

    Raises:
        OSError: nobody is there; the message says whom we asked.
    """
    if not transport:
        return await _local_syslog()
    try:
        async with asyncio.timeout(CONNECT_S):
            if transport == "tcp":
                return StreamLink(*await asyncio.open_connection(host, port))
            if transport == "unix":
                return StreamLink(*await asyncio.open_unix_connection(host))
            if transport == "unixgram":
                return DatagramLink(await _datagram(socket.AF_UNIX, host))
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            return DatagramLink(await _datagram(found[0][0], found[0][4]))
    except OSError as error:
        reason = "i/o timeout" if isinstance(error, TimeoutError) else _reason(error)
        place = host if transport.startswith("unix") else f"{host}:{port}"
        raise OSError(error.errno, f"dial {transport} {place}: {reason}") from error


def _reason(error: OSError) -> str:
    texts = {errno.ECONNREFUSED: "connect: connection refused", errno.ENOENT: "connect: no such file or directory"}
    return texts.get(error.errno or 0, error.strerror or str(error))


async def _datagram(family: int, address: object) -> socket.socket:
    plain = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    plain.setblocking(False)
    try:
        plain.connect(address)  # type: ignore[arg-type]  # whatever getaddrinfo gives for the family
    except OSError:
        plain.close()
        raise
    return plain


async def _local_syslog() -> Link:
    for path in LOCAL_SYSLOG:
        with contextlib.suppress(OSError):
            return await connect("unixgram", path)
        with contextlib.suppress(OSError):
            return await connect("unix", path)
    raise OSError(errno.ENOENT, "Unix syslog delivery error")


async def journal() -> Link:
    """The journal of this host. Raises OSError when there is none."""
    if not Path(JOURNAL).exists():
        raise OSError(errno.ENOENT, "journald is not enabled on this host")
    return await connect("unixgram", JOURNAL)
