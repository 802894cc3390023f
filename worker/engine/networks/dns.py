"""Pure policy of the embedded DNS: what is answered here, and what goes upstream. Wire format by dnspython.

Names of containers are answered with their addresses in a shuffled order; a known name without records of the asked
type is an empty answer, never a question upstream (an AAAA question must not leave the host and come back NXDOMAIN).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

TTL_S = 5
"""Short: who caches an answer must not hold on to a task that is gone for longer than a moment."""
UDP_BYTES_MIN = 512
MESSAGE_BYTES_MAX = 65535
_HEADER_BYTES = 12


@dataclass(frozen=True)
class Reply:
    """Answer with these bytes; empty bytes mean say nothing."""

    wire: bytes


@dataclass(frozen=True)
class Forward:
    """Ask upstream with the question as it came; `failure` is the reply when nobody answers."""

    failure: bytes


def answer(
    question: bytes,
    lookup: Callable[[str], list[str] | None],
    reverse: Callable[[str], str | None],
    chance: random.Random,
    *,
    udp: bool,
) -> Reply | Forward:
    """What to do with one message of a client.

    Args:
        lookup: addresses of a container's name; None for a name that is nobody's here.
        reverse: a container's name by address.
        udp: the reply must fit the client's datagram size; one that does not is marked truncated.
    """
    try:
        message = dns.message.from_wire(question)
    except dns.exception.DNSException:
        return Reply(_malformed(question))
    if message.flags & dns.flags.QR:
        return Reply(b"")
    if message.opcode() != dns.opcode.QUERY or len(message.question) != 1:
        return Reply(_failure(message, dns.rcode.NOTIMP))
    (asked,) = message.question
    found = _records(asked, lookup, reverse, chance) if asked.rdclass == dns.rdataclass.IN else None
    if found is None:
        return Forward(_failure(message, dns.rcode.SERVFAIL))
    response = _response(message)
    response.flags |= dns.flags.AA
    response.answer.extend(found)
    size = max(UDP_BYTES_MIN, message.payload) if udp else MESSAGE_BYTES_MAX
    return Reply(response.to_wire(max_size=size, prefer_truncation=True))


def _records(
    asked: dns.rrset.RRset,
    lookup: Callable[[str], list[str] | None],
    reverse: Callable[[str], str | None],
    chance: random.Random,
) -> list[dns.rrset.RRset] | None:
    """The records that answer; [] for a known name without any; None if the name is not ours."""
    if asked.rdtype == dns.rdatatype.PTR:
        try:
            name = reverse(dns.reversename.to_address(asked.name))
        except (dns.exception.DNSException, ValueError):
            return None
        return None if name is None else [dns.rrset.from_text(asked.name, TTL_S, "IN", "PTR", name + ".")]
    addresses = lookup(asked.name.to_text(omit_final_dot=True))
    if addresses is None:
        return None
    if asked.rdtype != dns.rdatatype.A or not addresses:
        return []
    chance.shuffle(addresses)
    return [dns.rrset.from_text(asked.name, TTL_S, "IN", "A", *addresses)]


def _response(message: dns.message.Message) -> dns.message.Message:
    response = dns.message.make_response(message)
    response.flags |= dns.flags.RA
    return response


def _failure(message: dns.message.Message, code: dns.rcode.Rcode) -> bytes:
    response = _response(message)
    response.set_rcode(code)
    return response.to_wire()


def _malformed(question: bytes) -> bytes:
    """FORMERR with the client's id, as far as there is one; a response is never answered."""
    if len(question) < _HEADER_BYTES or question[2] & 0x80:
        return b""
    return question[:2] + bytes((0x80, dns.rcode.FORMERR)) + bytes(8)


def fits(question: bytes, response: bytes) -> bool:
    """Whether an upstream's datagram can be the answer: same id, a response, same question."""
    if len(response) < _HEADER_BYTES or response[:2] != question[:2] or not response[2] & 0x80:
        return False
    try:
        sent = dns.message.from_wire(question, question_only=True)
        got = dns.message.from_wire(response, question_only=True)
    except dns.exception.DNSException:
        return False
    return not got.question or sent.question == got.question
