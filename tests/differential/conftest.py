"""Both engines, once for all scenarios; the scenarios play in the background while the first of them are judged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from tests.differential.arena import arena
from tests.differential.compare import Outcome
from tests.differential.run import play_all
from tests.differential.scenario import Scenario

RUN = os.environ.get("SHOAL_TEST_RUN", f"t{os.getpid()}")
LONG = bool(os.environ.get("SHOAL_LONG"))
"""Also play the scenarios marked @long."""

Played = dict[str, Future[list[Outcome]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/differential/" in str(item.path):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.timeout(400))


_STALE = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def stale(request: pytest.FixtureRequest) -> list[str]:
    """Known differences that did not show; told at the end of the run."""
    return request.config.stash.setdefault(_STALE, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash.get(_STALE, []):
        terminalreporter.section("known differences that no longer show: take them out of the scenarios")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def played(request: pytest.FixtureRequest) -> Iterator[tuple[Played, Played]]:
    """What each scenario that was collected came to on dockerd and on shoald, by the scenario's id."""
    params = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    chosen = [each["scenario"] for each in params if isinstance(each.get("scenario"), Scenario)]
    with arena(f"{RUN}-diff") as engines:
        theirs, ours = (play_all([each for each in chosen if LONG or not each.long], engine) for engine in engines)
        try:
            yield theirs, ours
        finally:
            for future in (*theirs.values(), *ours.values()):
                future.cancel()
            for future in (*theirs.values(), *ours.values()):
                if not future.cancelled():
                    future.exception()
