"""A small bench for tests of the runtime: a busybox root, plans for containers, and a process inside which crun works.

`script()` runs a piece of Python with a runtime open, in a process of its own: what a daemon is to its containers.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from base.ids import hex_id
from worker.engine.parts import ContainerPlan, Process, ProcessIO
from worker.engine.runtime import host, spec
from worker.engine.runtime.runtime import MonitorRuntime
from worker.engine.syscalls.mountns import enter_private_mount_namespace

_APPLETS = [
    "sh",
    "true",
    "echo",
    "cat",
    "sleep",
    "ls",
    "id",
    "stty",
    "seq",
    "head",
    "dd",
    "yes",
    "env",
    "kill",
    "tr",
    "grep",
    "mkdir",
    "touch",
    "hostname",
    "ulimit",
    "mount",
    "nc",
]
_entered = False


def enter() -> None:
    """Once per process, before threads: see worker.engine.syscalls.mountns."""
    global _entered
    if not _entered:
        enter_private_mount_namespace()
        _entered = True


def busybox_root(directory: Path) -> Path:
    """A minimal root file system."""
    root = directory / "rootfs"
    for name in ("bin", "proc", "dev", "sys", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in _APPLETS:
        os.symlink("busybox", root / "bin" / applet)
    (root / "etc/notexec").write_text("no program")
    return root


class Bench:
    """Containers under one runtime, each with a directory of its own."""

    def __init__(self, directory: Path, root: Path) -> None:
        self.directory = directory
        self.root = root
        self.runtime = MonitorRuntime(directory / "run")
        self.host = host.read_host()
        self.ids: list[str] = []

    def folder(self, container_id: str) -> Path:
        return self.directory / "c" / container_id[:12]

    def log(self, container_id: str) -> Path:
        return self.folder(container_id) / "json.log"

    def exit_file(self, container_id: str) -> Path:
        return self.folder(container_id) / "exit"

    async def create(
        self,
        args: Sequence[str],
        *,
        io: Mapping[str, Any] | None = None,
        process: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> tuple[str, Process]:
        """A created container of `args`; `io`, `process` and `settings` are fields of the dataclasses."""
        container_id = hex_id()
        self.ids.append(container_id)
        wiring = ProcessIO(log_path=self.log(container_id), **(io or {}))
        folder = self.folder(container_id)
        folder.mkdir(parents=True)
        first = spec.ProcessSettings(args, env=spec.environment([]), tty=wiring.tty, **(process or {}))
        settings = {"readonly_rootfs": True, "hostname": "box"} | settings
        wanted = spec.ContainerSettings(id=container_id, process=first, rootfs=self.root, **settings)
        plan = ContainerPlan(container_id, folder, spec.build(wanted, self.host), wiring, self.exit_file(container_id))
        return container_id, await self.runtime.create(plan)

    async def exec(self, container_id: str, args: Sequence[str], **io: Any) -> Process:
        settings = spec.ProcessSettings(args, env=spec.environment([]), tty=io.get("tty", False))
        return await self.runtime.exec(container_id, hex_id(), spec.process(settings, self.host), ProcessIO(**io))


async def output(process: Process, runtime: MonitorRuntime | None = None, container_id: str = "") -> dict[int, bytes]:
    """All a process writes, by stream; starts the container once attached, if told which."""
    stream = await process.attach()
    if runtime is not None:
        await runtime.start(container_id)
    return await collect(stream)


async def collect(stream: Any) -> dict[int, bytes]:
    found = {1: b"", 2: b""}
    async with asyncio.timeout(30):
        async for number, data in stream:
            found[number] += data
    await stream.close()
    return found
