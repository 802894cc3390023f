"""Majorities. An empty set of voters has none: nothing is won and nothing commits."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def majority(voters: Collection[int]) -> int:
    """How many voters make a majority."""
    return len(voters) // 2 + 1


def has_majority(voters: Collection[int], agreeing: Collection[int]) -> bool:
    """Do the agreeing hold a majority of the voters? Those who are no voters don't count."""
    return sum(voter in agreeing for voter in voters) >= majority(voters)


def agreed_index(voters: Collection[int], acknowledged: Mapping[int, int]) -> int:
    """The highest number that a majority of the voters has reached; who is absent has reached 0."""
    if not voters:
        return 0
    reached = sorted((acknowledged.get(voter, 0) for voter in voters), reverse=True)
    return reached[majority(voters) - 1]
