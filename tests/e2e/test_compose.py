"""docker-compose 1.29 brings up five nodes on shoald, of an image that our builder makes; the scenarios are played on
them, and the same ones on the lab."""

from __future__ import annotations

import os

import pytest

from lab.cluster.__main__ import cluster
from lab.cluster.drivers import COMPOSE_TEST, LabCluster
from lab.cluster.scenario import load
from lab.cluster.steps import World, play_all
from lab.lab import Lab, running
from tests.e2e.client import Docker
from tests.e2e.conftest import RUN

QUICK = 2
"""So many scenarios are played on the lab; all of them with SHOAL_LONG=1 (tests/e2e has the lab's own faults)."""


@pytest.mark.timeout(600)
def test_scenarios_on_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(f"{RUN}-compose", registry=False) as lab:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{lab.socket('m1')}")
        docker = Docker(lab.socket("m1"))
        networks = docker.ok("network", "ls", "-q")
        with cluster("compose", "") as made:
            assert play_all(World(made), load(COMPOSE_TEST / "scenarios")) == []
        assert docker.ok("ps", "-aq") == docker.ok("volume", "ls", "-q") == "", "compose down takes away what up made"
        assert docker.ok("network", "ls", "-q") == networks


@pytest.mark.timeout(600)
def test_scenarios_on_the_lab(swarm_lab: Lab) -> None:
    scenarios = load(COMPOSE_TEST / "scenarios")
    try:
        played = scenarios if os.environ.get("SHOAL_LONG") else scenarios[:QUICK]
        assert play_all(World(LabCluster(swarm_lab)), played) == []
    finally:
        swarm_lab.docker("m1", "swarm", "update", "--dispatcher-heartbeat", "5s")
