"""What options of macvlan networks mean, in dockerd's words where they can't be."""

from __future__ import annotations

import pytest

from api.errors import Conflict, InvalidArgument
from worker.engine.networks import macvlan
from worker.engine.networks.macvlan import Parent, parent_of
from worker.engine.networks.records import NetworkRecord

ID = "0123456789abcdef" * 4
OTHER = NetworkRecord(id="f" * 64, name="other", driver="macvlan", parent="eth1")


@pytest.mark.parametrize(
    ("options", "parent"),
    [
        ({}, Parent("dm-0123456789ab", made=True)),
        ({"parent": ""}, Parent("dm-0123456789ab", made=True)),
        ({"parent": "eth0"}, Parent("eth0")),
        ({"parent": "eth0.10"}, Parent("eth0.10", made=True)),
        ({"parent": "eth0.7"}, Parent("eth0.7")),
        ({"parent": "eth0", "macvlan_mode": "private"}, Parent("eth0")),
    ],
)
def test_the_parent(options: dict[str, str], parent: Parent) -> None:
    assert parent_of(options, ID, {"eth0", "eth0.7"}, [OTHER]) == parent


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (
            {"macvlan_mode": "x"},
            InvalidArgument,
            "requested macvlan mode 'x' is not valid, 'bridge' mode is",
        ),
        ({"parent": "lo"}, InvalidArgument, "loopback interface is not a valid macvlan parent link"),
        ({"parent": "eth1"}, Conflict, "network dm-ffffffffffff is already using parent interface eth1"),
        ({"parent": "nope"}, InvalidArgument, "invalid subinterface vlan name nope, example formatting is eth0.10"),
        ({"parent": "eth0.x"}, InvalidArgument, "unable to parse a valid vlan id from: x"),
        ({"parent": "eth0.4095"}, InvalidArgument, "vlan id must be between 1-4094, received: 4095"),
        ({"parent": "nope.10"}, InvalidArgument, "parent interface does was not found on the host: nope"),
        ({"parent": "enp0s31f60000.10"}, InvalidArgument, "invalid subinterface vlan name"),
    ],
)
def test_parents_that_cannot_be(options: dict[str, str], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        parent_of(options, ID, {"eth0", "eth1", "enp0s31f60000"}, [OTHER])


def test_the_numbers_of_modes() -> None:
    assert (macvlan.mode({}), macvlan.mode({"macvlan_mode": "private"})) == (4, 1)
