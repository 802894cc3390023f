"""Forgets what connection tracking remembers of UDP ports, which would else keep leading datagrams where they went
before: to the host, before a port was published; to a container that is gone, after.

TCP needs nothing of this: its connections end with their peers.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket


def forget_udp(ports: Collection[int]) -> None:
    """Delete the flows to these ports (of any address) in the calling thread's namespace. Blocking."""
    with NFCTSocket() as tracking:
        for port in ports:
            wanted = NFCTAttrTuple(proto=socket.IPPROTO_UDP, dport=port)
            for entry in list(tracking.dump(tuple_orig=wanted)):
                _delete(tracking, entry.get_attr("CTA_TUPLE_ORIG"), port)


def _delete(tracking: NFCTSocket, original: Any, port: int) -> None:
    address, transport = original.get_attr("CTA_TUPLE_IP"), original.get_attr("CTA_TUPLE_PROTO")
    if transport.get_attr("CTA_PROTO_DST_PORT") != port or transport.get_attr("CTA_PROTO_NUM") != socket.IPPROTO_UDP:
        return
    flow = NFCTAttrTuple(
        saddr=address.get_attr("CTA_IP_V4_SRC"),
        daddr=address.get_attr("CTA_IP_V4_DST"),
        proto=socket.IPPROTO_UDP,
        sport=transport.get_attr("CTA_PROTO_SRC_PORT"),
        dport=port,
    )
    try:
        tracking.entry("del", tuple_orig=flow)
    except NetlinkError as error:
        if error.code != errno.ENOENT:  # it has just ended by itself
            raise
