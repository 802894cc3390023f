"""Where a node is reached after a restart."""

from __future__ import annotations

import pytest

from daemon.membership import readdressed
from daemon.node import NodeState

OLD, NEW = "10.0.0.5", "10.0.9.9"


def state(**fields: str | bool) -> NodeState:
    base: dict[str, str | bool] = {"listen_addr": "0.0.0.0:2377", "advertise_addr": f"{OLD}:2377"}
    return NodeState(**{**base, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "default", "interfaces", "advertised"),
    [
        (state(), "", {"eth0": OLD}, OLD),
        (state(), "", {"eth0": NEW}, NEW),  # it was detected: it is again
        (state(), "", {"eth0": OLD, "eth1": NEW}, OLD),  # a second interface moves nobody
        (state(), "", {}, OLD),  # not up yet
        (state(), "", {"eth0": NEW, "eth1": "10.7.7.7"}, OLD),  # ambiguous
        (state(advertise_asked="eth0"), "", {"eth0": NEW}, NEW),
        (state(advertise_asked=OLD), "", {"eth0": NEW}, OLD),  # never this host's own: others translate it
        (state(advertise_asked=OLD, advertise_local=True), "", {"eth0": OLD, "eth1": NEW}, OLD),
        (state(advertise_asked=OLD, advertise_local=True), "", {"eth0": NEW}, NEW),  # it was, and is no more
        (state(advertise_asked=OLD), NEW, {"eth0": NEW}, NEW),  # until the operator says otherwise
        (state(advertise_asked=OLD, default_advertise=NEW), NEW, {"eth0": NEW}, OLD),
    ],
)
def test_the_address_that_others_are_told(
    before: NodeState, default: str, interfaces: dict[str, str], advertised: str
) -> None:
    assert readdressed(before, default, interfaces).advertise_addr == f"{advertised}:2377"


def test_a_listening_address_that_is_gone_moves_along() -> None:
    before = state(listen_addr=f"{OLD}:2377", listen_asked=OLD, advertise_asked=OLD)
    after = readdressed(before, "eth0", {"eth0": NEW})
    assert (after.listen_addr, after.advertise_addr) == (f"{NEW}:2377", f"{NEW}:2377")
    assert readdressed(after, "eth0", {"eth0": NEW}) == after


def test_listening_on_an_interface_follows_it() -> None:
    before = state(listen_addr=f"{OLD}:4000", listen_asked="eth0:4000")
    assert readdressed(before, "", {"eth0": NEW}).listen_addr == f"{NEW}:4000"
    assert readdressed(before, "", {"eth1": NEW}) == before
