"""The runtime of plugins: the one of containers, over a directory of its own, opened when the first plugin needs it.

Of its own, so that neither side ever takes what the other runs for remains of a crash.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from base.clock import Clock
from base.offload import Pool
from worker.engine.runtime.host import Host, read_host
from worker.engine.runtime.runtime import MonitorRuntime


class Runner:
    """A host without plugins pays nothing for them."""

    def __init__(self, exec_root: Path, binary: str, disk: Pool, clock: Clock) -> None:
        self._root = exec_root
        self._binary = binary
        self._disk = disk
        self._clock = clock
        self._lock = asyncio.Lock()
        self._runtime: MonitorRuntime | None = None
        self._host: Host | None = None

    async def runtime(self) -> MonitorRuntime:
        """The runtime, open. Raises as `MonitorRuntime.open`."""
        async with self._lock:
            if self._runtime is None:
                runtime = MonitorRuntime(self._root, binary=self._binary, clock=self._clock)
                await runtime.open()
                self._runtime = runtime
            return self._runtime

    async def host(self) -> Host:
        """What this machine allows."""
        if self._host is None:
            self._host = await self._disk.run(read_host)
        return self._host

    def has_left(self) -> bool:
        """Whether there is anything of a plugin, from before the daemon's restart."""
        return any(any(self._root.glob(f"{part}/*")) for part in ("m", "crun"))

    async def close(self) -> None:
        """Let go of what runs; it runs on."""
        if self._runtime is not None:
            await self._runtime.close()
