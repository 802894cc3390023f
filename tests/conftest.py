"""What all tests share: promises are counted, and a test that leaves asyncio tasks behind fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conformance.plugin import Recorder


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(), "promises")


@pytest_asyncio.fixture(autouse=True)
async def _no_task_is_left(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Every asyncio task has an owner, and its owner ends it."""
    if not asyncio.iscoroutinefunction(getattr(request, "function", None)):
        yield
        return
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"asyncio tasks left behind: {[task.get_name() for task in left]}"
