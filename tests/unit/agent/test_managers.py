"""Choosing a manager."""

import random

import pytest

from worker.agent.limits import BACKOFF_FIRST_S, BACKOFF_MAX_S
from worker.agent.managers import backoff_s, choose, leader_hint


@pytest.mark.parametrize(
    ("message", "addr"),
    [
        ("this manager is not the leader; the leader is 10.0.0.2:2377", "10.0.0.2:2377"),
        ("not the leader: leader at [fd00::1]:2377", "[fd00::1]:2377"),
        ("The swarm does not have a leader. It's possible that too few managers are online.", ""),
        ("the node can't be reached: 10.0.0.2:2377", ""),
        ("", ""),
    ],
)
def test_a_refusal_may_name_the_leader(message: str, addr: str) -> None:
    assert leader_hint(message) == addr


def test_the_one_that_failed_is_not_tried_first() -> None:
    rng = random.Random(1)
    assert {choose(["a", "b", "c"], [], "a", rng) for _ in range(50)} == {"b", "c"}
    assert choose(["a"], [], "a", rng) == "a"
    assert choose([], ["s"], "", rng) == "s"
    assert choose(["k"], ["s"], "k", rng) == "k", "seeds count only while no manager is known"
    assert choose([], [], "", rng) == ""


def test_waiting_grows_to_its_limit_and_no_further() -> None:
    rng = random.Random(1)
    assert max(backoff_s(1, rng) for _ in range(200)) <= BACKOFF_FIRST_S
    late = [backoff_s(1_000_000, rng) for _ in range(200)]
    assert BACKOFF_MAX_S * 0.9 < max(late) <= BACKOFF_MAX_S
