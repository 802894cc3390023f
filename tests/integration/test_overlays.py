"""Overlays on a real kernel, in a network namespace of the test's own."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.types.dataplane import Overlay, OverlayPool
from worker.engine.networks import vxlan
from worker.engine.networks.links import EndpointPlan, Links, make_sandbox
from worker.engine.syscalls import netns

pytestmark = pytest.mark.root

ADDRESS, MAC = "10.77.0.5", "02:42:0a:4d:00:05"
OVERLAY = Overlay(
    id="net", name="net", vni=300, local="10.99.0.11", pools=[OverlayPool(subnet="10.77.0.0/24", gateway="10.77.0.1")]
)


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Where the overlay's and a container's namespace go."""
    yield tmp_path / "overlay", tmp_path / "container"
    for path in (tmp_path / "overlay", tmp_path / "container"):
        netns.remove(path)


def bridge(*words: str) -> Any:
    done = subprocess.run(["bridge", "-j", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


def test_a_container_is_found_at_once_at_an_address_that_another_host_had(paths: tuple[Path, Path]) -> None:
    """The bridge has seen frames from there come in by the VXLAN link, and the container has said nothing yet."""
    overlay, container = paths

    def before() -> None:
        bridge("fdb", "add", MAC, "dev", vxlan.VXLAN, "master", "dynamic")
        subprocess.run(
            ["ip", "neigh", "replace", ADDRESS, "lladdr", MAC, "dev", vxlan.BRIDGE, "nud", "permanent"], check=True
        )

    def body() -> bytes:
        vxlan.ensure(overlay, OVERLAY)
        netns.call(overlay, before)
        make_sandbox(container)
        links = Links()
        try:
            plan = EndpointPlan("svtest", vxlan.BRIDGE, "eth0", MAC, ADDRESS, 24, gateway="", within=overlay)
            links.add_endpoint(plan, container)
        finally:
            links.close()
        with netns.call(container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
            server.bind((ADDRESS, 4000))
            server.settimeout(3)
            with netns.call(overlay, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
                client.sendto(b"first", (ADDRESS, 4000))
            return server.recv(100)

    assert netns.in_new(body) == b"first"


def test_the_bridge_of_an_overlay_learns_nothing_of_other_hosts(paths: tuple[Path, Path]) -> None:
    def body() -> list[dict[str, Any]]:
        vxlan.ensure(paths[0], OVERLAY)
        found: list[dict[str, Any]] = netns.call(paths[0], lambda: bridge("-d", "link", "show", "dev", vxlan.VXLAN))
        return found

    (port,) = netns.in_new(body)
    assert port["learning"] is False
