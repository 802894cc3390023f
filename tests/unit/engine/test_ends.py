"""A run may end at any moment, also while something else is being written of its container: neither may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from api.errors import Conflict, NotModified
from api.types.container import RestartPolicy
from tests.unit.engine.conftest import Bench
from worker.engine.containers.states import Status

ALWAYS = {"restart_policy": RestartPolicy(name="always")}


class Gate:
    """Holds back the next write of a record."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = asyncio.Event()
        self._open = asyncio.Event()
        self._write = bench.records.write
        monkeypatch.setattr(bench.records, "write", self._held)

    async def _held(self, *changes: object) -> None:
        self.entered.set()
        await self._open.wait()
        await self._write(*changes)  # type: ignore[arg-type]

    async def meanwhile(self, *steps: Callable[[], object]) -> None:
        """Take steps while the write waits, and let it go once others had their turns."""
        await self.entered.wait()
        for step in steps:
            step()
        for _ in range(20):
            await asyncio.sleep(0)
        self._open.set()

    async def then(self, work: Callable[[], Awaitable[object]]) -> object:
        """Begin work while the write waits."""
        await self.entered.wait()
        return await work()


async def finish(*work: Awaitable[object]) -> list[object]:
    async with asyncio.timeout(5):
        return await asyncio.gather(*work, return_exceptions=True)


async def test_an_end_while_a_stop_is_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    container_id = await bench.run(host=ALWAYS)
    gate = Gate(bench, monkeypatch)
    stop, _ = await finish(
        bench.containers.stop(container_id, 1),
        gate.meanwhile(lambda: bench.runtime.processes[container_id].ends(7)),
    )
    assert stop is None
    record = bench.containers.get(container_id).record
    assert (record.status, record.exit_code, record.manually_stopped) == (Status.EXITED, 7, True)


async def test_a_stop_while_an_end_is_written_calls_the_restart_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    container_id = await bench.run(host=ALWAYS)
    gate = Gate(bench, monkeypatch)
    bench.runtime.processes[container_id].ends(7)
    assert await finish(gate.then(lambda: bench.containers.stop(container_id, 1)), gate.meanwhile()) == [None, None]
    container = bench.containers.get(container_id)
    assert (container.record.status, container.record.exit_code) == (Status.EXITED, 7)
    assert container.record.manually_stopped
    assert container.restart_task is None
    with pytest.raises(NotModified):
        await bench.containers.stop(container_id, 1)


async def test_an_end_while_a_pause_is_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    container_id = await bench.run()
    bench.runtime.processes[container_id].ends(7)
    gate = Gate(bench, monkeypatch)
    answer, _ = await finish(gate.then(lambda: bench.containers.pause(container_id)), gate.meanwhile())
    assert isinstance(answer, Conflict)
    assert bench.containers.get(container_id).record.status is Status.EXITED
