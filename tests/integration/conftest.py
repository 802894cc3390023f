"""One real shoald for all tests of the API; each test finds it empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.shoald import Api, running


@pytest.fixture(scope="session")
def _shoald() -> Iterator[Api]:
    with running() as api:
        yield api


@pytest.fixture
def api(_shoald: Api) -> Iterator[Api]:
    """The API of a daemon without containers, volumes or networks; what the test leaves is removed."""
    yield _shoald
    _shoald.clear()
