"""Notices that somebody deleted nftables tables, chains or rules in the host's namespace, our own included.

The kernel tells every listener of every change (netlink group NFNLGRP_NFTABLES). Our own transactions are told, too:
whoever is woken compares and finds nothing wrong. Source: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator

_NETLINK_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES = 12, 270, 1, 7
_SUBSYSTEM_NFTABLES = 10
_DELETIONS = {2, 5, 8, 14}
"""NFT_MSG_DELTABLE, DELCHAIN, DELRULE, DELSETELEM."""
_HEADER = struct.Struct("=IHHII")
_RECEIVE_BYTES = 1 << 16


def kinds(data: bytes) -> Iterator[tuple[int, int]]:
    """(subsystem, message) of each netlink message in a datagram. Pure."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind >> 8, kind & 0xFF
        at += (length + 3) & ~3


class Guard:
    """Calls `noticed` from the event loop whenever something was deleted. `open` in the host's namespace."""

    def __init__(self, noticed: Callable[[], None]) -> None:
        self._noticed = noticed
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Raises OSError when the kernel has no nftables."""
        listening = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
        )
        try:
            listening.bind((0, 0))
            listening.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
        except BaseException:
            listening.close()
            raise
        self._socket = listening
        asyncio.get_running_loop().add_reader(listening, self._read)

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        assert self._socket is not None
        found = False
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                found = True  # more was told than fits: something may be among it
                continue
            found = found or any(
                subsystem == _SUBSYSTEM_NFTABLES and message in _DELETIONS for subsystem, message in kinds(data)
            )
        if found:
            self._noticed()
