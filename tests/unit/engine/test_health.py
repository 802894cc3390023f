"""Health checks: what answers mean, and that the loop follows the container's life."""

from __future__ import annotations

import asyncio

import pytest

from api.types.container import HealthConfig
from tests.unit.engine.conftest import Bench
from worker.engine.containers.health import HEALTHY, STARTING, UNHEALTHY, command, judge

MS = 1_000_000


@pytest.mark.promise("containers.create.b13")
def test_commands() -> None:
    assert command(HealthConfig(test=["CMD", "a", "b"])) == ["a", "b"]
    assert command(HealthConfig(test=["CMD-SHELL", "a | b"])) == ["/bin/sh", "-c", "a | b"]
    for config in (None, HealthConfig(), HealthConfig(test=["NONE"])):
        assert command(config) is None


@pytest.mark.promise("containers.create.b18", "containers.create.b20")
def test_judgement() -> None:
    assert judge(STARTING, 0, passed=True, starting=True, retries=3) == (HEALTHY, 0)
    assert judge(STARTING, 0, passed=False, starting=True, retries=1) == (STARTING, 0)
    assert judge(STARTING, 0, passed=False, starting=False, retries=2) == (STARTING, 1)
    assert judge(HEALTHY, 1, passed=False, starting=False, retries=2) == (UNHEALTHY, 2)
    assert judge(HEALTHY, 0, passed=False, starting=True, retries=1) == (UNHEALTHY, 1)
    assert judge(UNHEALTHY, 7, passed=True, starting=False, retries=2) == (HEALTHY, 0)


async def next_check(bench: Bench, number: int) -> None:
    async with asyncio.timeout(5):
        while len(bench.runtime.execs) < number:
            await asyncio.sleep(0.002)


@pytest.mark.promise("containers.create.b14")
async def test_checks_run_while_the_container_does(bench: Bench) -> None:
    config = HealthConfig(test=["CMD", "check", "me"], interval=5 * MS, retries=1)
    container_id = await bench.run("web", healthcheck=config)
    assert (await bench.containers.list())[0].status.endswith("(health: starting)")
    for number, (code, status) in enumerate([(0, HEALTHY), (1, UNHEALTHY)], start=1):
        await next_check(bench, number)
        probe = [process for key, process in bench.runtime.processes.items() if key.startswith("exec ")][-1]
        async with asyncio.timeout(5):
            while not probe.streams:
                await asyncio.sleep(0.002)
            probe.says(b"seen")
            probe.ends(code)
            while bench.containers.get("web").health.status != status:
                await asyncio.sleep(0.002)
    assert bench.runtime.execs[0]["args"] == ["check", "me"]
    health = (await bench.containers.inspect("web")).state.health
    assert [(result.exit_code, result.output) for result in health.log] == [(0, "seen"), (1, "seen")]  # type: ignore[union-attr]
    assert [action for action in bench.actions() if "health" in action] == [
        "health_status: healthy",
        "health_status: unhealthy",
    ]
    bench.runtime.processes[container_id].ends(0)
    await bench.containers.wait("web")


@pytest.mark.promise("containers.create.b19")
async def test_a_check_that_hangs_is_a_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr("worker.engine.containers.health.os.kill", lambda pid, number: killed.append(number))
    config = HealthConfig(test=["CMD", "check"], interval=5 * MS, timeout=10 * MS, retries=1)
    await bench.run("web", healthcheck=config)
    async with asyncio.timeout(5):
        while bench.containers.get("web").health.status != UNHEALTHY:
            await asyncio.sleep(0.002)
    assert killed[0] == 9
    assert "exceeded timeout" in bench.containers.get("web").health.log[0].output
