"""RUN: one command in a container of its own, its output as it comes.

Invariant: the container is gone afterwards, unless the build was told to keep it; a daemon that was killed in the
middle removes it at its next start, by its label.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from api.errors import NotFound, ShoalError
from api.types.build import BuildOptions
from api.types.container import (
    ContainerSummary,
    CreateAnswer,
    CreateBody,
    HealthConfig,
    HostConfig,
    LogConfig,
)
from api.types.stream import AttachOptions
from base.ids import short_id
from worker.engine.containers.attach import AttachSession
from worker.engine.images.progress import Feed, Report
from worker.engine.parts import STDERR

LABEL = "io.shoal.build"
"""On the containers of builds: `temporary`, or `kept` when the user wants to look at them."""
_FRAME_HEAD = 8
_RED, _PLAIN = "\x1b[91m", "\x1b[0m"


class BuildContainers(Protocol):
    """What builds need of containers (`worker.engine.containers.engine.Containers`)."""

    async def create(self, name: str | None, body: CreateBody) -> CreateAnswer: ...

    async def start(self, ref: str) -> None: ...

    async def wait(self, ref: str) -> int: ...

    async def attach(self, ref: str, options: AttachOptions) -> AttachSession: ...

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None: ...

    def upper(self, ref: str) -> Path:
        """What it wrote over its image."""
        ...

    async def labelled(self, label: str) -> Sequence[ContainerSummary]:
        """All containers with a label, running or not."""
        ...


class CommandFailed(ShoalError):
    """A RUN ended with a status other than 0, which is the build's then."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class _Output:
    """Takes the process's output as an attached client does."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._never = asyncio.Event()

    async def read(self) -> bytes:
        await self._never.wait()
        return b""

    async def write(self, data: bytes) -> None:
        """One frame. A client that does not read makes us wait, not remember."""
        text = data[_FRAME_HEAD:].decode("utf-8", "replace")
        self._report({"stream": f"{_RED}{text}{_PLAIN}" if data[0] == STDERR else text})
        if isinstance(self._report, Feed):
            await self._report.room()

    async def write_eof(self) -> None:
        return

    async def close(self) -> None:
        return

    async def wait_lost(self) -> None:
        await self._never.wait()


class Runner:
    """Runs commands for one build."""

    def __init__(self, containers: BuildContainers, options: BuildOptions) -> None:
        self._containers = containers
        self._options = options

    @contextlib.asynccontextmanager
    async def run(
        self, image: str, command: list[str], env: list[str], report: Report
    ) -> AsyncIterator[tuple[str, Path]]:
        """Run a command to its end; the container's id and what it wrote, for the length of a block.

        Raises: CommandFailed, and what creating and starting a container raise.
        """
        options = self._options
        body = CreateBody(
            image=image,
            cmd=command,
            entrypoint=[""],
            env=env,
            attach_stdout=True,
            attach_stderr=True,
            healthcheck=HealthConfig(test=["NONE"]),
            labels={LABEL: "temporary" if options.remove or options.force_remove else "kept"},
            host_config=host_config(options),
        )
        container = (await self._containers.create(None, body)).id
        keep = False
        removing = {"stream": f"Removing intermediate container {short_id(container)}\n"}
        try:
            report({"stream": f" ---> Running in {short_id(container)}\n"})
            code = await self._attached(container, report)
            if code:
                keep = not options.force_remove
                words = " ".join(command)
                if not keep:
                    report(removing)
                raise CommandFailed(f"The command '{words}' returned a non-zero code: {code}", code)
            yield container, self._containers.upper(container)
            keep = not (options.remove or options.force_remove)
        finally:
            if not keep:
                with contextlib.suppress(NotFound):
                    await self._containers.remove(container, force=True, volumes=True)
        if not keep:
            report(removing)

    async def _attached(self, container: str, report: Report) -> int:
        session = await self._containers.attach(container, AttachOptions(stream=True, stdout=True, stderr=True))
        try:
            async with asyncio.TaskGroup() as group:
                output = group.create_task(session.run(_Output(report)), name="build-output")
                try:
                    await self._containers.start(container)
                except BaseException:
                    output.cancel()
                    raise
                code = await self._containers.wait(container)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return code


async def remove_leftovers(containers: BuildContainers) -> None:
    """Containers of builds that a crash cut short."""
    for found in await containers.labelled(f"{LABEL}=temporary"):
        with contextlib.suppress(ShoalError):
            await containers.remove(found.id, force=True, volumes=True)


def host_config(options: BuildOptions) -> HostConfig:
    """The limits of the build, for each of its containers."""
    return HostConfig(
        memory=options.memory,
        memory_swap=options.memory_swap,
        cpu_shares=options.cpu_shares,
        cpu_period=options.cpu_period,
        cpu_quota=options.cpu_quota,
        cpuset_cpus=options.cpuset_cpus,
        cpuset_mems=options.cpuset_mems,
        cgroup_parent=options.cgroup_parent,
        shm_size=options.shm_size,
        network_mode=options.network_mode,
        extra_hosts=list(options.extra_hosts) or None,
        ulimits=list(options.ulimits) or None,
        log_config=LogConfig(type="none"),
    )
