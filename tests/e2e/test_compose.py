"""docker-compose 1.29 brings up five nodes on shoald, of an image that our builder makes; the scenarios are played on
them, and the same ones on the lab."""

from __future__ import annotations

import os

import pytest

from lab.cluster.__main__ import cluster
from lab.cluster.drivers import COMPOSE_TEST, LabCluster
from lab.cluster.scenario import load
from lab.cluster.steps import World, play_all
from lab.lab import Lab
from tests.e2e.conftest import RUN
from tests.e2e.test_nothing_left import assert_as_before, snapshot

QUICK = 2
"""So many scenarios are played on the lab; all of them with SHOAL_LONG=1 (tests/e2e has the lab's own faults)."""


@pytest.mark.timeout(400)
def test_scenarios_on_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    before = snapshot()
    with cluster("compose", f"{RUN}-compose") as made:
        assert play_all(World(made), load(COMPOSE_TEST / "scenarios")) == []
    assert_as_before(before)


@pytest.mark.timeout(400)
def test_scenarios_on_the_lab(swarm_lab: Lab) -> None:
    scenarios = load(COMPOSE_TEST / "scenarios")
    try:
        played = scenarios if os.environ.get("SHOAL_LONG") else scenarios[:QUICK]
        assert play_all(World(LabCluster(swarm_lab)), played) == []
    finally:
        swarm_lab.docker("m1", "swarm", "update", "--dispatcher-heartbeat", "5s")
