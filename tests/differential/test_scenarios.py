"""Every scenario comes to the same on shoald and on a real dockerd, but for the differences that are meant."""

from __future__ import annotations

import pytest

from tests.differential import compare, scenario
from tests.differential.conftest import LONG, Played
from tests.differential.scenario import Scenario

EVERYWHERE = scenario.everywhere()


@pytest.mark.parametrize("scenario", [pytest.param(each, id=each.id) for each in scenario.load()])
def test_scenario(scenario: Scenario, played: tuple[Played, Played], stale: list[str]) -> None:
    if scenario.long and not LONG:
        pytest.skip("long: set SHOAL_LONG=1")
    theirs, ours = (side[scenario.id].result() for side in played)
    verdict = compare.judge(scenario.steps, ours, theirs, scenario.known, EVERYWHERE)
    steps = "\n".join(f"  {number}: {step.command}" for number, step in enumerate(scenario.steps, 1))
    assert not verdict.bugs, f"{scenario.id}\n{steps}\n" + "\n".join(map(str, verdict.bugs))
    # That a difference has gone is good news for whoever mended it, and no reason to fail.
    stale.extend(f"{scenario.id}: {each.kind.value} {each.place} -- {each.reason}" for each in verdict.stale)
    if verdict.open:
        pytest.xfail("; ".join(each.reason for each in verdict.open))
