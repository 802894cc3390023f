"""Labs for the end-to-end tests: one single host for most, one swarm of five (and a spare) for the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab import swarm
from lab.lab import Lab, running
from lab.paths import LabError
from lab.state import alive
from tests.e2e.client import Docker

RUN = os.environ.get("SHOAL_TEST_RUN", f"t{os.getpid()}")
"""Names this run's labs; script/test removes what is left of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.root)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failure shows the end of the engines' logs."""
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        for lab in {id(each): each for each in getattr(item, "funcargs", {}).values()}.values():
            if isinstance(lab, Lab):
                report.sections += _logs(lab)  # type: ignore[attr-defined]
    return report


def _logs(lab: Lab) -> list[tuple[str, str]]:
    found = []
    try:
        hosts = lab.state().hosts.values()
    except LabError as error:  # it was the last test's tear-down that failed
        return [("no logs", str(error))]
    for host in hosts:
        path = lab.log(host.name)
        text = path.read_text(errors="replace")[-4000:] if path.exists() else "(no log)"
        running_now = "running" if alive(host.daemon) else "not running"
        found.append((f"log of {host.name} (engine {running_now})", text))
    return found


@pytest.fixture(scope="session")
def _single() -> Iterator[Lab]:
    with running(f"{RUN}-one") as lab:
        yield lab


@pytest.fixture
def single(_single: Lab) -> Iterator[Lab]:
    """A host of its own, engine answering, no containers; whatever the test leaves is removed."""
    if not alive(_single.host("m1").daemon):
        _single.start("m1")
    yield _single
    if not alive(_single.host("m1").daemon):
        _single.start("m1")
    docker = Docker(_single.socket("m1"))
    left = docker.ok("ps", "-aq").split()
    if left:
        docker.ok("rm", "-f", *left)


@pytest.fixture
def docker(single: Lab) -> Docker:
    """The docker CLI against the single host."""
    return Docker(single.socket("m1"))


SPARE = "w3"


@pytest.fixture(scope="session")
def _swarm() -> Iterator[Lab]:
    with running(f"{RUN}-five", managers=3, workers=3) as lab:
        swarm.form(lab, members=["m1", "m2", "m3", "w1", "w2"])
        yield lab


@pytest.fixture
def swarm_lab(_swarm: Lab) -> Iterator[Lab]:
    """Five hosts in one swarm, all Ready; `w3` is a sixth that is in none. What the test left is put right after it."""
    yield _swarm
    _swarm.heal()
    for host in _swarm.state().hosts.values():
        if not (alive(host.init) and alive(host.daemon)):
            _swarm.start(host.name)
    swarm.wait_ready(_swarm, 5)
    left = _swarm.docker("m1", "service", "ls", "-q").split()
    if left:
        _swarm.docker("m1", "service", "rm", *left)
