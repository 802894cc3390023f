"""A `Containers` over fakes; only its records and directories are real."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from api.types.container import CreateBody, HostConfig
from tests.unit.engine.fakes import FakeClock, FakeImages, FakeNetworks, FakeRuntime, FakeVolumes
from worker.engine.containers.engine import Containers
from worker.engine.events.bus import EventBus
from worker.engine.records import Records
from worker.engine.runtime.host import Host
from worker.engine.syscalls import mounts


@dataclass
class Bench:
    """The engine's containers and what they stand on."""

    containers: Containers
    runtime: FakeRuntime
    images: FakeImages
    networks: FakeNetworks
    volumes: FakeVolumes
    events: EventBus
    clock: FakeClock
    directory: Path
    records: Records

    async def create(self, name: str | None = None, *, host: dict[str, Any] | None = None, **fields: Any) -> str:
        body = CreateBody(image="busybox", host_config=HostConfig(**(host or {})), **fields)
        return (await self.containers.create(name, body)).id

    async def run(self, name: str | None = None, **fields: Any) -> str:
        container_id = await self.create(name, **fields)
        await self.containers.start(container_id)
        return container_id

    async def again(self) -> Containers:
        """The containers of a daemon that comes after this one, which is let go."""
        await self.containers.close()
        self.containers = await self.make()
        return self.containers

    async def make(self) -> Containers:
        made = Containers(
            records=self.records,
            runtime=self.runtime,
            images=self.images,
            networks=self.networks,
            volumes=self.volumes,
            events=self.events,
            data_root=self.directory / "data",
            exec_root=self.directory / "run",
            clock=self.clock,
            host=Host(),
        )
        await made.start_up()
        return made

    def actions(self) -> list[str]:
        """All events so far, as `type action`."""
        subscription = self.events.subscribe(since_ns=0)
        subscription.close()
        return [message.action for message in subscription._queue]


@pytest_asyncio.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(mounts, "overlay", lambda *paths: None)
    clock = FakeClock()
    layer = tmp_path / "layer"
    layer.mkdir()
    records = Records(tmp_path / "engine.db")
    await records.open()
    made = Bench(
        containers=None,  # type: ignore[arg-type]
        runtime=FakeRuntime(clock),
        images=FakeImages(layer),
        networks=FakeNetworks(),
        volumes=FakeVolumes(tmp_path / "volumes"),
        events=EventBus(clock),
        clock=clock,
        directory=tmp_path,
        records=records,
    )
    made.containers = await made.make()
    yield made
    await made.containers.close()
    await records.close()
