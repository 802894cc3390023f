"""Which addresses a node listens on and tells others."""

from __future__ import annotations

import pytest

from api.errors import InvalidArgument
from daemon.addresses import resolve_advertise, resolve_listen, resolve_remote

ONE = {"eth0": "10.0.0.5"}
TWO = {"eth0": "10.0.0.5", "eth1": "10.1.0.5"}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", "0.0.0.0:2377"),
        ("10.0.0.5", "10.0.0.5:2377"),
        ("10.0.0.5:4000", "10.0.0.5:4000"),
        ("eth0", "10.0.0.5:2377"),
        ("eth0:4000", "10.0.0.5:4000"),
    ],
)
def test_listening(text: str, address: str) -> None:
    assert resolve_listen(text, ONE) == address


@pytest.mark.parametrize(
    ("text", "default", "listen", "address"),
    [
        ("10.0.0.9", "", "0.0.0.0:2377", "10.0.0.9:2377"),
        ("eth1:4000", "", "0.0.0.0:2377", "10.1.0.5:4000"),
        ("", "eth1", "0.0.0.0:2377", "10.1.0.5:2377"),
        ("", "", "10.0.0.5:4000", "10.0.0.5:4000"),
        ("10.0.0.9", "eth1", "0.0.0.0:4000", "10.0.0.9:4000"),
    ],
)
def test_advertising(text: str, default: str, listen: str, address: str) -> None:
    assert resolve_advertise(text, default, listen, TWO) == address


def test_the_only_address_is_advertised() -> None:
    assert resolve_advertise("", "", "0.0.0.0:2377", ONE) == "10.0.0.5:2377"


def test_an_ambiguous_host_has_to_say() -> None:
    with pytest.raises(InvalidArgument) as caught:
        resolve_advertise("", "", "0.0.0.0:2377", TWO)
    assert "10.0.0.5 on eth0 and 10.1.0.5 on eth1" in caught.value.message
    assert "--advertise-addr" in caught.value.message


def test_a_host_without_address_has_to_say() -> None:
    with pytest.raises(InvalidArgument, match="--advertise-addr"):
        resolve_advertise("", "", "0.0.0.0:2377", {})


@pytest.mark.parametrize("text", ["nosuch0", "10.0.0.5:0", "10.0.0.5:99999", "10.0.0.5:x", "[::1]:2377", ":2377"])
def test_bad_addresses_name_their_field(text: str) -> None:
    with pytest.raises(InvalidArgument, match="ListenAddr"):
        resolve_listen(text, ONE)
    with pytest.raises(InvalidArgument, match="AdvertiseAddr"):
        resolve_advertise(text, "", "0.0.0.0:2377", ONE)


def test_nothing_is_not_an_address_to_tell() -> None:
    with pytest.raises(InvalidArgument, match="non-zero"):
        resolve_advertise("0.0.0.0", "", "0.0.0.0:2377", ONE)


def test_a_remote_manager_has_a_default_port() -> None:
    assert resolve_remote("10.0.0.1") == "10.0.0.1:2377"
    assert resolve_remote("manager.example:4000") == "manager.example:4000"
