"""A sample of seeds in every test run; thousands are run by hand (docs/TESTING.md)."""

from __future__ import annotations

import pytest

from tests.simulation.scenario import Scenario


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_seeds_keep_every_invariant_and_recover(first: int) -> None:
    for seed in range(first, first + 10):
        outcome = Scenario(seed).run()
        assert outcome.committed > 1
        assert outcome.recovery_ms < 60_000


def test_a_seed_is_reproducible() -> None:
    assert Scenario(7).run() == Scenario(7).run()
