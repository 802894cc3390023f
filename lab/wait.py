"""Waiting for a condition, with a deadline: the lab and its tests never sleep for luck."""

import time
from collections.abc import Callable
from typing import TypeVar

from lab.paths import LabError

T = TypeVar("T")


def until(look: Callable[[], T | None], *, timeout_s: float, what: str, interval_s: float = 0.05) -> T:
    """Call `look` until it returns something other than None or False, and return that; LabError at the deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(interval_s)
