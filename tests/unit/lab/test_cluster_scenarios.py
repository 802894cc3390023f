"""Scenarios as text: what is read, what is refused, and that every phrase of ours is known."""

import pytest

from lab.cluster.drivers import COMPOSE_TEST
from lab.cluster.scenario import BadScenario, Step, load, parse
from lab.cluster.steps import find


def test_a_scenario_is_read() -> None:
    (found,) = parse(
        "# c\nScenario: one\n  When w1 is cut off\n  Then within 5 s w1 is down\n  And within 6 s x\n", "f"
    )
    assert found.name == "one"
    assert found.steps == [
        Step("f:3", "When", "w1 is cut off"),
        Step("f:4", "Then", "w1 is down", 5),
        Step("f:5", "Then", "x", 6),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Given x", "f:1: a line is"),
        ("Scenario: a\nAnd x", "f:2: nothing comes before"),
        ("Scenario: a\nThen x", "f:2: a fact needs its deadline"),
        ("Scenario: a\nWhen within 3 s x", "f:2: only a fact"),
        ("Scenario: a\nOtherwise x", "f:2: a line is"),
        ("Scenario: a\nScenario: a", "used twice: a"),
    ],
)
def test_a_bad_line_is_named(text: str, words: str) -> None:
    with pytest.raises(BadScenario, match=words):
        parse(text, "f")


def test_all_our_phrases_are_known() -> None:
    scenarios = load(COMPOSE_TEST / "scenarios")
    assert len(scenarios) >= 6
    for scenario in scenarios:
        for step in scenario.steps:
            find(step)


@pytest.mark.parametrize("step", [Step("f:1", "When", "w1 is down"), Step("f:2", "Then", "w1 is cut off", 3)])
def test_a_fact_is_no_action(step: Step) -> None:
    with pytest.raises(BadScenario, match=step.where):
        find(step)
