"""One enabled plugin at work: its container is started, watched, started again when it ends, and stopped.

Invariants: `begin` returns when somebody listens on the plugin's socket, or leaves nothing behind; between `begin` and
`end` the process is started again whatever ends it, each time later than before until it has run steadily; the
plugin's mounts stay while it is started again, for containers may use them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

from api.errors import Internal, NotFound, ShoalError
from base import faultpoint
from base.clock import NS, Clock
from base.offload import Pool
from base.supervise import TaskOwner, cancel_and_wait
from worker.engine.parts import ContainerPlan, Process
from worker.engine.plugins import roots, settings
from worker.engine.plugins.config import PluginConfig
from worker.engine.plugins.plan import Place, build, process_io
from worker.engine.plugins.records import PluginRecord
from worker.engine.plugins.runner import Runner
from worker.engine.runtime.host import DeviceNode, all_devices, device_node

log = logging.getLogger(__name__)

LISTEN_S = 30.0
"""A plugin that does not listen by then is not one."""
STOP_S = 10.0
"""Between SIGTERM and SIGKILL."""
POLL_S = 0.02
FIRST_DELAY_S = 0.1
DELAY_MAX_S = 30.0
STEADY_NS = 10 * NS
"""A run this long forgives the failures before it."""
SOCKET_PATH_MAX = 107


def delay_s(failures: int) -> float:
    """How long to wait before the next start, after so many runs in a row that ended early."""
    return min(DELAY_MAX_S, FIRST_DELAY_S * 2.0 ** min(failures, 16))


class Instance:
    """Of one plugin, from `begin` (or `adopt`) to `end`."""

    def __init__(
        self,
        record: PluginRecord,
        config: PluginConfig,
        place: Place,
        layers: Sequence[Path],
        runner: Runner,
        disk: Pool,
        owner: TaskOwner,
        clock: Clock,
    ) -> None:
        self._record = record
        self._config = config
        self._place = place
        self._layers = layers
        self._runner = runner
        self._disk = disk
        self._owner = owner
        self._clock = clock
        self._keeper: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self.ready = asyncio.Event()
        """Somebody listens on the socket."""
        self.failed = False
        """The last try to start it again was in vain."""

    @property
    def socket(self) -> Path:
        return self._place.sockets / self._config.interface.socket

    async def begin(self) -> None:
        """Start it. Raises ShoalError with the reason; nothing is left then."""
        if len(str(self.socket).encode()) > SOCKET_PATH_MAX:
            raise Internal(f"{self.socket} is too long a path for a socket")
        try:
            await self._prepare()
            self._process = await self._run()
        except BaseException:
            await asyncio.shield(self._clear())
            raise
        faultpoint.reach("plugin.running")
        self._keep()

    async def adopt(self) -> None:
        """Take up the process of before the daemon's restart, or start a new one, in the background if it fails."""
        runtime = await self._runner.runtime()
        try:
            process = await runtime.adopt(self._record.id, process_io(self._place), self._place.exit_file)
            if process is not None:
                await self._listening(process)
                self._process = process
        except (ShoalError, OSError) as error:
            log.warning("plugin is started anew plugin=%s error=%s", self._record.full_name, error)
        if self._process is None:
            await self._again()
        self._keep()

    async def end(self) -> None:
        """Stop it and take away what it used."""
        self.ready.clear()
        await self.leave()
        await self._stop()
        await self._clear()

    async def leave(self) -> None:
        """Watch it no longer; it runs on."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await cancel_and_wait(keeper)

    # --- one run ----------------------------------------------------------------------------------------------------

    async def _run(self) -> Process:
        """Create, start, and wait until it listens."""
        runtime = await self._runner.runtime()
        await runtime.delete(self._record.id)  # one that was adopted and does not listen still runs
        await self._disk.run(roots.clear_sockets, self._place)
        host = await self._runner.host()
        spec = build(self._record, self._config, self._place, await self._disk.run(self._devices), host)
        plan = ContainerPlan(
            id=self._record.id,
            bundle=self._place.bundle,
            spec=spec,
            io=process_io(self._place),
            exit_file=self._place.exit_file,
        )
        process = await runtime.create(plan)
        try:
            await runtime.start(self._record.id)
            await self._listening(process)
        except BaseException:
            await asyncio.shield(runtime.delete(self._record.id))
            raise
        return process

    def _devices(self) -> list[DeviceNode]:
        if self._config.linux.allow_all_devices:
            return all_devices()
        wanted = settings.devices(self._config, self._record.overrides)
        return [device_node(device.path) for device in wanted if device.path]

    async def _listening(self, process: Process) -> None:
        """Wait until the socket takes connections. Raises Internal when the process ends before, or takes too long."""
        socket = self._config.interface.socket
        ended = self._owner.spawn(process.wait(), name=f"end of {self._record.id[:12]}")
        try:
            async with asyncio.timeout(LISTEN_S):
                while not await self._answers():
                    await asyncio.wait([ended], timeout=POLL_S)
                    if ended.done():
                        said = await self._disk.run(_last_words, self._place.log)
                        raise Internal(
                            f"it ended with code {ended.result().code} before it listened on {socket}"
                            f"{f': {said}' if said else ''}"
                        )
        except TimeoutError:
            raise Internal(f"it does not listen on {socket} after {LISTEN_S:g} s") from None
        finally:
            ended.cancel()
        self.ready.set()

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(self.socket)
        except OSError:
            return False
        writer.close()
        return True

    # --- run after run ----------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        self._keeper = self._owner.spawn(self._run_on(), name=f"keep {self._record.id[:12]}")

    async def _run_on(self) -> None:
        """Wait for the end of every run, and begin the next."""
        failures, began_ns = 0, self._clock.now_ns()
        while True:
            if self._process is not None:
                ended = await self._process.wait()
                self._process = None
                self.ready.clear()
                if self._clock.now_ns() - began_ns >= STEADY_NS:
                    failures = 0
                log.warning("plugin ended plugin=%s code=%d", self._record.full_name, ended.code)
            await asyncio.sleep(delay_s(failures))
            failures, began_ns = failures + 1, self._clock.now_ns()
            await self._again()

    async def _again(self) -> None:
        """Start it where it has run before. A failure is logged: the next try is later."""
        try:
            await self._prepare()
            self._process = await self._run()
            self.failed = False
        except (ShoalError, OSError) as error:
            self.failed = True
            log.error("plugin does not start plugin=%s error=%s", self._record.full_name, error)

    async def _stop(self) -> None:
        runtime = await self._runner.runtime()
        process, self._process = self._process, None
        try:
            await runtime.kill(self._record.id, signal.SIGTERM)
        except NotFound:
            process = None  # it has ended
        if process is not None:
            try:
                async with asyncio.timeout(STOP_S):
                    await process.wait()
            except TimeoutError:
                log.warning("plugin does not stop, and is killed plugin=%s", self._record.full_name)
        await runtime.delete(self._record.id)

    async def _prepare(self) -> None:
        propagated = bool(self._config.propagated_mount)
        await self._disk.run(roots.prepare, self._place, self._layers, propagated=propagated)

    async def _clear(self) -> None:
        await self._disk.run(roots.take_down, self._place)


def _last_words(path: Path) -> str:
    """The last line a plugin wrote before it ended."""
    try:
        lines = path.read_bytes().splitlines()
        return str(json.loads(lines[-1])["log"]).strip()[:500]
    except (OSError, ValueError, LookupError):
        return ""
