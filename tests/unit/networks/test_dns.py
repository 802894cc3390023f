"""The embedded DNS' answers: bytes in, bytes out."""

from __future__ import annotations

import random

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.networks.dns import Forward, Reply, answer, fits
from worker.engine.networks.names import NameTable, split_link
from worker.engine.networks.records import EndpointRecord, SandboxRecord

ADDRESSES = {"web": ["10.0.0.2", "10.0.0.3"], "many": [f"10.1.0.{last}" for last in range(1, 200)]}


def lookup(name: str) -> list[str] | None:
    found = ADDRESSES.get(name.lower())
    return list(found) if found else None


def reverse(address: str) -> str | None:
    return "web.blue" if address == "10.0.0.2" else None


def ask(name: str, kind: str = "A", *, udp: bool = True, seed: int = 1) -> Reply | Forward:
    wire = dns.message.make_query(name, kind, use_edns=False).to_wire()
    return answer(wire, lookup, reverse, random.Random(seed), udp=udp)


def reply(name: str, kind: str = "A", *, udp: bool = True, seed: int = 1) -> dns.message.Message:
    got = ask(name, kind, udp=udp, seed=seed)
    assert isinstance(got, Reply)
    return dns.message.from_wire(got.wire)


def texts(message: dns.message.Message) -> list[str]:
    return [item.to_text() for rrset in message.answer for item in rrset]


def test_a_name_has_all_its_addresses_in_changing_order() -> None:
    assert sorted(texts(reply("WEB"))) == ADDRESSES["web"]
    assert len({tuple(texts(reply("web", seed=seed))) for seed in range(20)}) == 2
    assert reply("web").answer[0].ttl <= 5


def test_a_known_name_never_goes_upstream() -> None:
    for kind in ("AAAA", "MX", "TXT"):
        got = reply("web", kind)
        assert got.rcode() == dns.rcode.NOERROR
        assert got.answer == []


def test_unknown_names_go_upstream_with_servfail_in_hand() -> None:
    got = ask("example.test")
    assert isinstance(got, Forward)
    assert dns.message.from_wire(got.failure).rcode() == dns.rcode.SERVFAIL
    assert isinstance(ask("9.9.9.9.in-addr.arpa", "PTR"), Forward)


def test_reverse() -> None:
    assert texts(reply("2.0.0.10.in-addr.arpa", "PTR")) == ["web.blue."]


def test_a_long_answer_is_cut_on_udp_and_whole_on_tcp() -> None:
    cut = reply("many")
    assert cut.flags & dns.flags.TC
    whole = reply("many", udp=False)
    assert not whole.flags & dns.flags.TC
    assert len(texts(whole)) == 199


def test_what_is_not_a_question() -> None:
    assert answer(b"short", lookup, reverse, random.Random(1), udp=True) == Reply(b"")
    garbled = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\xff"
    got = answer(garbled, lookup, reverse, random.Random(1), udp=True)
    assert isinstance(got, Reply)
    assert dns.message.from_wire(got.wire).rcode() == dns.rcode.FORMERR
    response = dns.message.make_response(dns.message.make_query("web", "A")).to_wire()
    assert answer(response, lookup, reverse, random.Random(1), udp=True) == Reply(b"")


@given(st.binary(max_size=600))
def test_no_bytes_break_it(data: bytes) -> None:
    answer(data, lookup, reverse, random.Random(1), udp=True)
    fits(data, data)


def test_only_the_right_upstream_answer_fits() -> None:
    question = dns.message.make_query("a.test", "A")
    other = dns.message.make_query("b.test", "A", id=question.id)
    right = dns.message.make_response(question).to_wire()
    assert fits(question.to_wire(), right)
    assert not fits(question.to_wire(), bytes([right[0] ^ 1]) + right[1:])
    assert not fits(question.to_wire(), question.to_wire())
    assert not fits(question.to_wire(), dns.message.make_response(other).to_wire())


def endpoint(identity: str, network: str, address: str, *names: str, links: tuple[str, ...] = ()) -> EndpointRecord:
    return EndpointRecord(
        id=identity, network_id=network, network_name=network, address=address, names=names, links=links
    )


def sandbox(*endpoints: EndpointRecord) -> SandboxRecord:
    return SandboxRecord(
        id="s", container_id="c", container_name="c", mode="bridge", directory="/nonexistent", endpoints=endpoints
    )


def test_names_are_seen_on_shared_networks_only() -> None:
    table = NameTable()
    web, db = endpoint("1", "blue", "10.0.0.2", "web", "www"), endpoint("2", "green", "10.1.0.2", "db", "www")
    table.add(web)
    table.add(db)
    inside = sandbox(endpoint("9", "blue", "10.0.0.9", "me", links=("web:backend",)))
    assert table.lookup(inside, "WWW") == ["10.0.0.2"]
    assert table.lookup(inside, "web.blue.") == ["10.0.0.2"]
    assert table.lookup(inside, "backend") == ["10.0.0.2"]
    assert table.lookup(inside, "db") is None
    assert table.reverse(inside, "10.0.0.2") == "web.blue"
    assert table.reverse(inside, "10.1.0.2") is None
    table.remove(web)
    table.remove(web)
    assert table.lookup(inside, "www") is None
    assert table.lookup(sandbox(endpoint("8", "green", "10.1.0.8")), "www") == ["10.1.0.2"]


@pytest.mark.parametrize(
    ("text", "pair"), [("db:data", ("db", "data")), ("/db:/me/data", ("db", "data")), ("db", ("db", "db"))]
)
def test_links(text: str, pair: tuple[str, str]) -> None:
    assert split_link(text) == pair
