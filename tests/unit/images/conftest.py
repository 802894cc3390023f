"""A real store in a temporary directory, for the tests of images."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from base.clock import SystemClock
from worker.engine.images.store import ImageStore
from worker.engine.records import Records


class EventLog:
    """Keeps what was published."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str, dict[str, str]]] = []

    def publish(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        self.seen.append((kind, action, actor_id, dict(attributes)))

    def actions(self) -> list[str]:
        return [action for _kind, action, _actor, _attributes in self.seen]


class Host:
    """What a restart of the daemon keeps: the data root. `open` may be called again after `shut`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events = EventLog()
        self.running: set[str] = set()

    async def open(self) -> ImageStore:
        self.records = Records(self.root / "engine.db")
        await self.records.open()
        self.store = ImageStore(
            self.records, self.root, self.events, SystemClock(), container_running=self.running.__contains__
        )
        await self.store.start_up()
        return self.store

    async def shut(self) -> None:
        await self.store.close()
        await self.records.close()

    async def files(self) -> tuple[set[str], set[str]]:
        """Names of what lies in blobs and in layers, once what was discarded is gone."""
        await self.store.settled()
        return (
            {path.name for path in (self.root / "blobs" / "sha256").iterdir()}
            | {path.name for path in (self.root / "blobs" / "tmp").iterdir()},
            {path.name for path in (self.root / "layers").iterdir()},
        )


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(tmp_path / "data")
    await host.open()
    yield host
    await host.shut()


@pytest.fixture
def store(host: Host) -> ImageStore:
    return host.store
