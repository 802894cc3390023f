"""The checker finds what it is there for, and accepts what is right."""

from __future__ import annotations

import pytest

from tests.linearizability.checker import FOREVER, Operation, linearizable, version_faults


def write(began: float, ended: float, expected: str, value: str) -> Operation:
    return Operation(began, ended, expected, value)


def read(began: float, ended: float, value: str, version: int = 0) -> Operation:
    return Operation(began, ended, None, value, version)


RIGHT = {
    "in a row": [write(0, 1, "", "a"), read(2, 3, "a"), write(4, 5, "a", "b"), read(6, 7, "b")],
    "a read beside a write sees either": [write(0, 9, "", "a"), read(1, 2, ""), read(3, 4, "a")],
    "a lost answer, done late": [write(0, FOREVER, "", "a"), read(1, 2, ""), read(3, 4, "a")],
    "a lost answer, never done": [write(0, FOREVER, "", "a"), read(1, 2, ""), write(3, 4, "", "b"), read(5, 6, "b")],
    "two writers, one order fits": [write(0, 9, "b", "a"), write(0, 9, "", "b"), read(10, 11, "a")],
}
WRONG = {
    "a stale read": [write(0, 1, "", "a"), read(2, 3, "")],
    "a lost acknowledged write": [write(0, 1, "", "a"), write(2, 3, "", "b")],
    "two that both found the same": [write(0, 5, "", "a"), write(1, 4, "", "b"), read(6, 7, "a")],
    "a read that goes back": [write(0, 9, "", "a"), read(1, 2, "a"), read(3, 4, "")],
    "a value that nobody wrote": [read(0, 1, "x")],
    "a lost answer seen before it was asked": [read(0, 1, "a"), write(2, FOREVER, "", "a")],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right(name: str) -> None:
    assert linearizable(RIGHT[name], "")


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str) -> None:
    assert not linearizable(WRONG[name], "")


def test_a_long_history_with_lost_answers_is_checked_quickly() -> None:
    history = []
    for number in range(300):
        history.append(write(3 * number, 3 * number + 1, f"v{number - 1}" if number else "", f"v{number}"))
        history.append(read(3 * number + 1.5, 3 * number + 2, f"v{number}"))
        if number % 10 == 0:
            history.append(write(3 * number, FOREVER, f"v{number}", f"lost{number}"))
    assert linearizable(history, "")
    assert not linearizable([*history, read(950, 951, "v298")], "")


def test_versions() -> None:
    assert version_faults([read(0, 1, "a", 5), read(0, 2, "b", 7), read(3, 4, "b", 7)]) == []
    assert len(version_faults([read(0, 1, "a", 5), read(2, 3, "a", 6)])) == 1
    assert len(version_faults([read(0, 1, "b", 7), read(2, 3, "a", 6)])) == 1
