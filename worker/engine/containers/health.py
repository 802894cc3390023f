"""Health checks: a command run in the container every so often, and what its answers mean (v1.24 Healthcheck).

The judgement is pure; the loop belongs to one run of the container and ends with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import deque
from dataclasses import dataclass, field

from api.errors import ShoalError
from api.types.container import HealthConfig
from base.clock import NS
from worker.engine.containers.kit import Kit
from worker.engine.containers.states import Status
from worker.engine.containers.store import Container
from worker.engine.exec.execs import Execs
from worker.engine.parts import Process, Stream

log = logging.getLogger(__name__)

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
INTERVAL_NS = 30 * NS
TIMEOUT_NS = 30 * NS
RETRIES = 3
PROBES_KEPT = 5
OUTPUT_BYTES_MAX = 4096
HUNG_EXIT_CODE = -1


@dataclass(frozen=True)
class Probe:
    """One check that was made."""

    start_ns: int
    end_ns: int
    exit_code: int
    output: str


@dataclass
class Watch:
    """What is known of the health of one run."""

    status: str = STARTING
    streak: int = 0
    """Failures in a row."""
    log: deque[Probe] = field(default_factory=lambda: deque(maxlen=PROBES_KEPT))


def command(config: HealthConfig | None) -> list[str] | None:
    """The command to run, None without a check."""
    test = (config.test if config else None) or []
    if len(test) < 2 or test[0] == "NONE":
        return None
    return ["/bin/sh", "-c", " ".join(test[1:])] if test[0] == "CMD-SHELL" else test[1:]


def judge(status: str, streak: int, *, passed: bool, starting: bool, retries: int) -> tuple[str, int]:
    """(status, streak) after a check. Failures within the start period do not count."""
    if passed:
        return HEALTHY, 0
    if starting and status == STARTING:
        return status, 0
    streak += 1
    return (UNHEALTHY if streak >= retries else status), streak


class HealthChecks:
    def __init__(self, kit: Kit, execs: Execs) -> None:
        self._kit = kit
        self._execs = execs

    def begin(self, container: Container) -> None:
        """A run has begun (or was adopted): watch it if it has a check."""
        config = container.record.config.healthcheck
        line = command(config)
        container.health = None
        if config is not None and line is not None:
            container.health = watch = Watch()
            self._kit.owner.spawn(self._watch(container, watch, config, line), name=f"health {container.id[:12]}")

    async def _watch(self, container: Container, watch: Watch, config: HealthConfig, line: list[str]) -> None:
        ended = container.run_ended
        interval_s = (config.interval or INTERVAL_NS) / NS
        while not ended.is_set():
            try:
                async with asyncio.timeout(interval_s):
                    await ended.wait()
            except TimeoutError:
                if container.record.status is Status.RUNNING:
                    await self._check(container, watch, config, line)

    async def _check(self, container: Container, watch: Watch, config: HealthConfig, line: list[str]) -> None:
        begun = self._kit.clock.now_ns()
        code, output = await self._probe(container, line, (config.timeout or TIMEOUT_NS) / NS)
        now = self._kit.clock.now_ns()
        if not container.running:
            return  # it failed because the container ended
        watch.log.append(Probe(begun, now, code, output))
        before = watch.status
        watch.status, watch.streak = judge(
            before,
            watch.streak,
            passed=code == 0,
            starting=begun - container.record.started_ns < config.start_period,
            retries=config.retries or RETRIES,
        )
        if watch.status != before:
            action = f"health_status: {watch.status}"
            self._kit.events.publish("container", action, container.id, container.attributes())

    async def _probe(self, container: Container, line: list[str], timeout_s: float) -> tuple[int, str]:
        """(exit code, beginning of the output)."""
        try:
            process, stream = await self._execs.run(container, line)
        except ShoalError as error:
            return HUNG_EXIT_CODE, error.message
        try:
            async with asyncio.timeout(timeout_s):
                output = await _collect(stream)
                return (await process.wait()).code, output
        except TimeoutError:
            _kill(process)
            return HUNG_EXIT_CODE, f"Health check exceeded timeout ({timeout_s:g}s)"
        finally:
            await stream.close()


async def _collect(stream: Stream) -> str:
    found = bytearray()
    async for _, data in stream:
        found += data[: OUTPUT_BYTES_MAX - len(found)]
    return found.decode("utf-8", "replace")


def _kill(process: Process) -> None:
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("a health check ended while it was being killed pid=%s", process.pid)
