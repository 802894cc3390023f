"""One real shoald for all tests of the API; each test finds it empty."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.shoald import Api, running

PARENTS = [*Path("/sys/fs/cgroup").glob("*"), Path("/sys/fs/cgroup")]
NAMES = ("shoal", "shoal-test-parent")


@pytest.fixture(scope="session", autouse=True)
def _no_cgroup_is_left() -> Iterator[None]:
    """Engines make the parents of their containers' cgroups and leave them, as dockerd does; these tests run on the
    machine's own tree, so the empty ones that they brought are taken away."""
    ours = [parent / name for parent in PARENTS for name in NAMES if not (parent / name).exists()]
    yield
    for directory in ours:
        with contextlib.suppress(OSError):  # not there, or another daemon of this machine has begun to use it
            directory.rmdir()


@pytest.fixture(scope="session")
def _shoald() -> Iterator[Api]:
    with running() as api:
        yield api


@pytest.fixture
def api(_shoald: Api) -> Iterator[Api]:
    """The API of a daemon without containers, volumes or networks; what the test leaves is removed."""
    yield _shoald
    _shoald.clear()
