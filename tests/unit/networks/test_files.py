"""hosts, hostname and resolv.conf as text."""

from __future__ import annotations

import pytest

from api.errors import InvalidArgument
from worker.engine.networks.files import (
    Resolver,
    check_dns,
    container_resolver,
    hosts_text,
    own_names,
    parse_extra_host,
    parse_resolv_conf,
    usable_upstreams,
)

HOST = parse_resolv_conf(
    "# made by hand\nnameserver 127.0.0.53\nnameserver 192.0.2.53 ; the real one\nnameserver 2001:db8::1\n"
    "domain old.test\nsearch a.test b.test\noptions ndots:2 edns0\n"
)


def test_hosts() -> None:
    text = hosts_text([("172.17.0.2", own_names("web", "test"))])
    assert text.splitlines()[0] == "127.0.0.1\tlocalhost"
    assert text.splitlines()[-1] == "172.17.0.2\tweb.test web"


def test_extra_hosts() -> None:
    assert parse_extra_host("db:192.0.2.1") == ("192.0.2.1", "db")
    assert parse_extra_host("db=::1") == ("::1", "db")
    assert parse_extra_host("host:host-gateway", "172.17.0.1") == ("172.17.0.1", "host")
    with pytest.raises(InvalidArgument, match='bad format for add-host: "db"'):
        parse_extra_host("db")
    with pytest.raises(InvalidArgument, match='invalid IP address in add-host: "nowhere"'):
        parse_extra_host("db:nowhere")


def test_resolv_conf_is_read_as_the_c_library_does() -> None:
    assert Resolver(("127.0.0.53", "192.0.2.53", "2001:db8::1"), ("a.test", "b.test"), ("ndots:2", "edns0")) == HOST


def test_servers_a_container_cannot_reach_are_left_out() -> None:
    assert usable_upstreams(HOST, []) == ("192.0.2.53",)
    assert usable_upstreams(Resolver(("127.0.0.53",)), []) == ("8.8.8.8", "8.8.4.4")
    assert usable_upstreams(HOST, ["127.0.0.1"]) == ("127.0.0.1",)


def test_container_resolver() -> None:
    plain = container_resolver(HOST, dns=[], search=[], options=[], embedded=False)
    assert plain.text() == "search a.test b.test\nnameserver 192.0.2.53\noptions ndots:2 edns0\n"
    own = container_resolver(HOST, dns=["192.0.2.9"], search=["."], options=["rotate"], embedded=False)
    assert own.text() == "nameserver 192.0.2.9\noptions rotate\n"
    embedded = container_resolver(Resolver(), dns=["192.0.2.9"], search=[], options=[], embedded=True)
    assert embedded.text() == "nameserver 127.0.0.11\noptions ndots:0\n"


def test_dns_servers_must_be_addresses() -> None:
    check_dns(["192.0.2.1", "::1"])
    with pytest.raises(InvalidArgument, match="resolver is not a valid IP address"):
        check_dns(["resolver"])
