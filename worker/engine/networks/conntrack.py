"""Forgets flows: the UDP ones to backends that are gone, and all of a subnet that changes hands.

A UDP flow is led where it was led first, for as long as datagrams come; TCP needs nothing of this, its open connections
are meant to end with their peers. A network on a subnet that another one had must not inherit flows that count as
established: they would pass where the new one's rules let nothing begin.

On one raw socket, because it is done in every namespace that had the backend in its tables: a tenth of a millisecond
where there is nothing to forget. Wire format: include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv4Address, IPv4Network

_NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ORIGINAL, _REPLY, _IP, _PROTO, _V4_SOURCE, _V4_TARGET, _NUMBER = 1, 2, 1, 2, 1, 2, 1
_TYPE_MASK, _NESTED = 0x3FFF, 0x8000
_HEADER = struct.Struct("=IHHII")
_RECEIVE_BYTES = 1 << 16


def attributes(data: bytes) -> dict[int, bytes]:
    """Type to payload of a run of netlink attributes; what is cut short ends it. Pure."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4 or at + length > len(data):
            break
        found[kind & _TYPE_MASK] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def leads_to(entry: bytes, backends: Collection[str]) -> bytes:
    """The original tuple of a UDP flow that was led to one of the backends; empty for any other flow. Pure.

    Args:
        entry: the attributes of one conntrack entry.
    """
    whole = attributes(entry)
    original, reply = attributes(whole.get(_ORIGINAL, b"")), attributes(whole.get(_REPLY, b""))
    protocol = attributes(original.get(_PROTO, b"")).get(_NUMBER, b"")
    target = attributes(original.get(_IP, b"")).get(_V4_TARGET, b"")
    answers = attributes(reply.get(_IP, b"")).get(_V4_SOURCE, b"")
    if protocol != bytes((socket.IPPROTO_UDP,)) or len(answers) != 4 or answers == target:
        return b""
    return whole[_ORIGINAL] if str(IPv4Address(answers)) in backends else b""


def within(entry: bytes, subnet: IPv4Network) -> bytes:
    """The original tuple of a flow that begins or ends in the subnet; empty for any other flow. Pure.

    Args:
        entry: the attributes of one conntrack entry.
    """
    whole = attributes(entry)
    for tuple_ in (whole.get(_ORIGINAL, b""), whole.get(_REPLY, b"")):
        ends = attributes(attributes(tuple_).get(_IP, b""))
        if any(len(end) == 4 and IPv4Address(end) in subnet for end in ends.values()):
            return whole.get(_ORIGINAL, b"")
    return b""


def forget_backends(backends: Collection[str]) -> int:
    """Delete the UDP flows led to these addresses, in the calling thread's namespace. Blocking. Answers how many.

    Raises OSError when the kernel has no connection tracking.
    """
    return _forget(lambda entry: leads_to(entry, backends))


def forget_subnet(subnet: str) -> int:
    """Delete the flows from and to a subnet, in the calling thread's namespace. Blocking. Answers how many.

    Raises OSError when the kernel has no connection tracking.
    """
    network = IPv4Network(subnet)
    return _forget(lambda entry: within(entry, network))


def _forget(chosen: Callable[[bytes], bytes]) -> int:
    """`chosen` answers the original tuple of an entry that is to go."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as link:
        link.bind((0, 0))
        link.send(_message(_GET, _REQUEST | _DUMP, b""))
        gone = [original for entry in _dump(link) if (original := chosen(entry))]
        for original in gone:
            nested = struct.pack("=HH", 4 + len(original), _ORIGINAL | _NESTED) + original + bytes(-len(original) % 4)
            link.send(_message(_DELETE, _REQUEST | _ACK, nested))
            _acknowledged(link.recv(_RECEIVE_BYTES))
        return len(gone)


def _message(kind: int, flags: int, body: bytes) -> bytes:
    family = struct.pack("=BBH", socket.AF_INET, 0, 0)
    return _HEADER.pack(_HEADER.size + len(family) + len(body), kind, flags, 1, 0) + family + body


def _dump(link: socket.socket) -> Iterator[bytes]:
    while True:
        data, at = link.recv(_RECEIVE_BYTES), 0
        while at + _HEADER.size <= len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, at)
            if kind == _DONE or length < _HEADER.size:
                return
            if kind == _ERROR:
                _acknowledged(data[at:])
                return
            yield data[at + _HEADER.size + 4 : at + length]
            at += (length + 3) & ~3


def _acknowledged(data: bytes) -> None:
    (code,) = struct.unpack_from("=i", data, _HEADER.size)
    if code and -code != errno.ENOENT:  # it may have ended by itself
        raise OSError(-code, os.strerror(-code))
