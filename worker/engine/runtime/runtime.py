"""The runtime: creates containers and execs under monitors, finds them again, and removes what is left of them.

State of a container lives in `<exec-root>/m/<short id>/` (its monitor's socket, pid and log of the OCI runtime), of
an exec in `<exec-root>/x/<container>.<exec>/`; crun's own below `<exec-root>/crun/`. A container is known while any of
these exist. Ids are shortened because a unix socket's path ends at 107 bytes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from api.errors import Conflict, Internal, InvalidArgument, NotFound
from base import faultpoint
from base.clock import Clock, SystemClock
from base.supervise import TaskOwner
from worker.engine.parts import ContainerPlan, Exit, Process, ProcessIO
from worker.engine.runtime import freezer
from worker.engine.runtime.bpf_cache import BpfCache
from worker.engine.runtime.crun import Crun, failure
from worker.engine.runtime.grace import GracePeriod
from worker.engine.runtime.process import EndedProcess, MonitoredProcess, connect, read_exit
from worker.engine.runtime.zygote_link import ZygoteLink

log = logging.getLogger(__name__)

MAX_SOCKET_PATH = 107
SHORT = 12
LEAVE_SECONDS = 30.0
"""Longer than a monitor takes to leave after its process ended."""
LOST_CODE = 255
"""The exit code told when a monitor died and the true one is lost."""


class MonitorRuntime:
    """`parts.Runtime` over crun and our own monitors."""

    def __init__(self, exec_root: Path, *, binary: str = "crun", clock: Clock | None = None) -> None:
        self._monitors = exec_root / "m"
        self._execs = exec_root / "x"
        self._seccomp = exec_root / "seccomp"
        self._crun = Crun(binary, exec_root / "crun")
        self._clock = clock or SystemClock()
        self._zygote = ZygoteLink(binary)
        self._owner = TaskOwner("runtime")
        self._grace = GracePeriod()
        self._running: dict[str, MonitoredProcess] = {}
        self._exec_processes: dict[Path, MonitoredProcess] = {}
        self._bpf: BpfCache | None = None

    async def open(self) -> None:
        """Make the directories and start the zygote.

        Raises:
            InvalidArgument: the exec root's path is too long for unix sockets.
            Internal: the OCI runtime can't be run.
        """
        longest = self._execs / ("x" * (2 * SHORT + 1)) / "console"
        if len(os.fsencode(longest)) > MAX_SOCKET_PATH:
            raise InvalidArgument(f"exec-root: {self._execs.parent} is too long a path for unix sockets")
        for directory in (self._monitors, self._execs, self._crun.root, self._seccomp):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o700)
        self._bpf = BpfCache(self._seccomp, await self._crun.version())
        await self._zygote.start()

    async def close(self) -> None:
        """Let go of all containers; they run on."""
        for process in [*self._running.values(), *self._exec_processes.values()]:
            process.close()
        await self._owner.close()
        self._grace.close()
        await self._zygote.close()

    # --- life ----------------------------------------------------------------------------------------------------

    def expect(self) -> None:
        self._owner.spawn(self._grace.run(), name="grace period")

    async def create(self, plan: ContainerPlan) -> Process:
        if plan.id in self._running and not self._running[plan.id].ended:
            raise Conflict(f"container {plan.id} exists already")
        await self.delete(plan.id)
        directory = self._directory(plan.id)
        directory.mkdir(mode=0o700)
        faultpoint.reach("monitor.directory")
        try:
            (directory / "id").write_text(plan.id)
            (directory / "cgroup").write_text(plan.spec.get("linux", {}).get("cgroupsPath", ""))
            plan.exit_file.unlink(missing_ok=True)
            assert self._bpf is not None, "the runtime is not open"
            spec = dict(plan.spec)
            key = self._bpf.apply(spec)
            (plan.bundle / "config.json").write_text(json.dumps(spec))
            crun = self._crun
            process = await self._fork(
                directory,
                plan.io,
                plan.exit_file,
                create=crun.argv_create(plan.id, plan.bundle, directory, tty=plan.io.tty),
                start=crun.argv_start(plan.id, directory),
                cleanup=crun.argv_delete(plan.id),
            )
            faultpoint.reach("monitor.forked")
            words = await process.ready()
            if words:
                await process.left()
                raise failure("create", words, plan.spec["process"])
        except BaseException:
            await asyncio.shield(self._sweep(plan.id))
            raise
        if key:
            self._bpf.keep(key, crun.root / plan.id / "seccomp.bpf")
        self._running[plan.id] = process
        faultpoint.reach("monitor.created")
        return process

    async def start(self, container_id: str) -> None:
        faultpoint.reach("monitor.starting")
        words = await self._process(container_id).start()
        faultpoint.reach("monitor.started")
        if words:
            spec = {"args": [container_id]}
            raise failure("start", words, spec)

    async def adopt(self, container_id: str, io: ProcessIO, exit_file: Path) -> Process | None:
        directory = self._directory(container_id)
        try:
            process = await connect(directory, exit_file, self._lost(container_id))
        except OSError:
            return await self._adopt_ended(container_id, directory, exit_file)
        words = await process.ready()
        if words and not process.ended:
            # It went while we connected, and has left its exit file; or it was killed.
            return await self._adopt_ended(container_id, directory, exit_file)
        self._running[container_id] = process
        return process

    async def _adopt_ended(self, container_id: str, directory: Path, exit_file: Path) -> Process | None:
        pid = _read_pid(directory)
        found = read_exit(exit_file)
        if found is not None:
            return EndedProcess(pid, found)
        if not directory.exists() and container_id not in self._crun.known():
            return None
        # Its monitor died before it: without its stdio and its exit code it is of no use.
        await self._sweep(container_id)
        return EndedProcess(pid, self._lost_exit())

    async def delete(self, container_id: str) -> None:
        process = self._running.pop(container_id, None) or await self._find(container_id)
        if process is not None:
            if not process.ended:
                try:
                    await self._kill(process, signal.SIGKILL)
                except NotFound:
                    pass  # it ended just now
            try:
                async with asyncio.timeout(LEAVE_SECONDS):
                    await process.left()
            except TimeoutError:
                raise Internal(f"the monitor of {container_id} does not leave") from None
        await self._sweep(container_id)

    async def _find(self, container_id: str) -> MonitoredProcess | None:
        """The live monitor of a container that nobody adopted."""
        try:
            process = await connect(self._directory(container_id), Path("/nonexistent"), self._lost(container_id))
        except OSError:
            return None
        await process.ready()
        return process

    async def _sweep(self, container_id: str) -> None:
        """Remove all traces, whatever is there."""
        await self._crun.delete(container_id)
        freezer.remove_stray_directory(_read(self._directory(container_id) / "cgroup"))
        short = container_id[:SHORT]
        for directory in [self._directory(container_id), *self._execs.glob(f"{short}.*")]:
            self._exec_processes.pop(directory, None)
            shutil.rmtree(directory, ignore_errors=True)

    async def exec(self, container_id: str, exec_id: str, process: dict[str, Any], io: ProcessIO) -> Process:
        self._process(container_id)
        directory = self._exec_directory(container_id, exec_id)
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            raise Conflict(f"exec {exec_id} exists already") from None
        try:
            (directory / "process.json").write_text(json.dumps(process))
            created = await self._fork(
                directory,
                io,
                directory / "exit",
                create=self._crun.argv_exec(container_id, directory, tty=io.tty),
            )
            words = await created.ready()
            if words:
                await created.left()
                raise failure("exec", words, process)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        self._exec_processes[directory] = created
        if not io.keep_exit:
            self._owner.spawn(self._forget_exec(directory, created), name=f"exec {exec_id[:SHORT]}")
        return created

    async def adopt_exec(self, container_id: str, exec_id: str) -> Process | None:
        directory = self._exec_directory(container_id, exec_id)
        exit_file = directory / "exit"
        try:
            process = await connect(directory, exit_file, self._exec_lost)
            if not await process.ready() or process.ended:
                self._exec_processes[directory] = process
                return process
        except OSError:
            pass  # it has ended
        found = read_exit(exit_file)
        if found is None:
            return EndedProcess(0, self._lost_exit()) if directory.exists() else None
        return EndedProcess(_read_pid(directory), found)

    async def forget_exec(self, container_id: str, exec_id: str) -> None:
        directory = self._exec_directory(container_id, exec_id)
        process = self._exec_processes.get(directory)
        if process is not None:
            await self._forget_exec(directory, process)
        else:
            shutil.rmtree(directory, ignore_errors=True)

    async def _forget_exec(self, directory: Path, process: MonitoredProcess) -> None:
        await process.left()
        self._exec_processes.pop(directory, None)
        shutil.rmtree(directory, ignore_errors=True)

    async def _fork(
        self,
        directory: Path,
        io: ProcessIO,
        exit_file: Path,
        *,
        create: list[str],
        start: list[str] | None = None,
        cleanup: list[str] | None = None,
    ) -> MonitoredProcess:
        plan = {
            "directory": str(directory),
            "create": create,
            "start": start,
            "cleanup": cleanup,
            "tty": io.tty,
            "stdin": io.stdin,
            # An exec's input ends with the client that gave it: nobody else can attach to it.
            "stdin_once": io.stdin_once or start is None,
            "log_path": str(io.log_path) if io.log_path else None,
            "log_max_bytes": io.log_max_bytes,
            "log_max_files": io.log_max_files,
            "exit_file": str(exit_file),
            # What an exec writes before its client can attach is kept for it.
            "await_attach": start is None and not io.detached,
        }
        control = await self._zygote.fork_monitor(plan)
        container_id = "" if start is None else start[-1]
        on_lost = self._lost(container_id) if container_id else self._exec_lost
        process = await connect(directory, exit_file, on_lost, control)
        if plan["await_attach"]:
            try:
                await process.attach_first()
            except (OSError, Conflict) as error:
                process.close()
                raise Internal(f"the monitor failed: {_trace(directory)}") from error
        return process

    # --- a monitor that died -------------------------------------------------------------------------------------

    def _lost(self, container_id: str) -> Any:
        def lost(process: MonitoredProcess) -> None:
            self._owner.spawn(self._bury(container_id, process), name=f"bury {container_id[:SHORT]}")

        return lost

    async def _bury(self, container_id: str, process: MonitoredProcess) -> None:
        log.error("monitor died, ending its container container=%s trace=%s", container_id, _trace(process.directory))
        try:
            await self._crun.delete(container_id)
        finally:
            process.give_up(self._lost_exit())

    def _exec_lost(self, process: MonitoredProcess) -> None:
        log.error("monitor of an exec died directory=%s trace=%s", process.directory, _trace(process.directory))
        try:
            process.kill(signal.SIGKILL)
        except NotFound:
            pass  # it ended, too
        process.give_up(self._lost_exit())

    def _lost_exit(self) -> Exit:
        return Exit(code=LOST_CODE, at_ns=self._clock.now_ns(), error="the container's monitor died")

    # --- while it runs -------------------------------------------------------------------------------------------

    async def kill(self, container_id: str, signal: int) -> None:
        await self._kill(self._process(container_id), signal)

    async def _kill(self, process: MonitoredProcess, number: int) -> None:
        process.kill(number)
        if number == signal.SIGKILL:
            # cgroup v1: a frozen process does not even die.
            try:
                await freezer.freeze(_cgroup(process), frozen=False)
            except NotFound:
                pass  # it died

    async def pause(self, container_id: str) -> None:
        await freezer.freeze(_cgroup(self._process(container_id)), frozen=True)

    async def resume(self, container_id: str) -> None:
        await freezer.freeze(_cgroup(self._process(container_id)), frozen=False)

    async def pids(self, container_id: str) -> list[int]:
        return freezer.processes(_cgroup(self._process(container_id)))

    async def update(self, container_id: str, resources: dict[str, Any]) -> None:
        file = self._process(container_id).directory / "resources.json"
        file.write_text(json.dumps(resources))
        await self._crun.update(container_id, file)

    async def known(self) -> list[str]:
        found = set(self._crun.known())
        for directory in self._monitors.iterdir():
            container_id = _read(directory / "id")
            # Made and never filled, for the daemon was killed: its short id serves to delete it.
            found.add(container_id if container_id.startswith(directory.name) else directory.name)
        return sorted(found)

    # --- small things --------------------------------------------------------------------------------------------

    def _process(self, container_id: str) -> MonitoredProcess:
        process = self._running.get(container_id)
        if process is None or process.ended:
            raise NotFound(f"container {container_id} is not running")
        return process

    def _directory(self, container_id: str) -> Path:
        assert container_id, "without an id this is the directory of all"
        return self._monitors / container_id[:SHORT]

    def _exec_directory(self, container_id: str, exec_id: str) -> Path:
        return self._execs / f"{container_id[:SHORT]}.{exec_id[:SHORT]}"


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _cgroup(process: MonitoredProcess) -> str:
    return _read(process.directory / "cgroup")


def _read_pid(directory: Path) -> int:
    return int(_read(directory / "pid") or 0)


def _trace(directory: Path) -> str:
    return _read(directory / "monitor.err") or "none (it was killed)"
