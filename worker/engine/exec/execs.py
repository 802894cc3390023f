"""Other processes in running containers (v1.24 "Exec Create" to "Exec Inspect").

An exec is set up first and started once. It ends with its container. What happens to it is written down (`records`)
before it is told, so that a restart of the daemon finds it, running or ended.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from api.errors import Conflict, Internal, InvalidArgument, NotFound, ShoalError
from api.types.exec import ExecAnswer, ExecBody, ExecInspect, ProcessConfig
from api.wire.stdcopy import frame
from base.ids import hex_id
from worker.engine.containers.config import as_list, merge_env
from worker.engine.containers.detach import parse_keys
from worker.engine.containers.inroot import read_text
from worker.engine.containers.kit import Kit
from worker.engine.containers.plan import chosen_capabilities, process_env
from worker.engine.containers.pump import Connection, Wiring, pump
from worker.engine.containers.security import check_security
from worker.engine.containers.start import EXIT_NOT_EXECUTABLE, exit_code_of
from worker.engine.containers.states import Status
from worker.engine.containers.store import Container
from worker.engine.exec.records import ExecRecord, ExecRecords
from worker.engine.parts import Process, ProcessIO, Stream
from worker.engine.runtime import capabilities, users
from worker.engine.runtime.spec import ProcessSettings, Rlimit, process

log = logging.getLogger(__name__)

LOST_CODE = 255
"""The exit code told when nobody knows the true one."""
FINISHED_KEPT = 64
"""Ended execs that a container keeps for inspection."""


@dataclass
class Exec:
    """One exec of one container."""

    id: str
    container: Container
    body: ExecBody
    command: list[str]
    started: bool = False
    process: Process | None = None
    running: bool = False
    exit_code: int | None = None
    pid: int = 0

    def record(self) -> ExecRecord:
        return ExecRecord(
            id=self.id,
            container_id=self.container.id,
            body=self.body,
            command=self.command,
            started=self.started,
            exit_code=self.exit_code,
            pid=self.pid,
        )


class ExecSession:
    """The client of an exec that is about to run: `run` it on its connection, or `close` it.

    The command is started once the connection is taken over, as dockerd does it. Some clients lose output that comes
    in one piece with the head of the answer; and a command that can't be started is told in the stream, because they
    wait for a connection and read the exit code afterwards, as with a command that ran.
    """

    def __init__(self, execs: Execs, item: Exec, wiring: Wiring) -> None:
        self._execs = execs
        self._item = item
        self._wiring = wiring

    async def run(self, connection: Connection) -> None:
        """Serve the client until the process ends, the client leaves or detaches. Closes the connection."""
        try:
            try:
                stream = await self._execs.launch(self._item, attached=True)
            except ShoalError as error:
                text = f"{error.message}\r\n".encode()
                await connection.write(text if self._wiring.tty else frame(1, text))
            else:
                assert stream is not None
                await self._serve(stream, connection)
            await connection.write_eof()
        except ConnectionResetError:
            pass
        finally:
            await connection.close()

    async def _serve(self, stream: Stream, connection: Connection) -> None:
        if await pump(stream, connection, self._wiring):
            self._execs.publish(self._item, "exec_detach")
        else:
            await self._execs.settled(self._item)

    async def close(self) -> None:
        """Leave without having run."""
        self._item.started = False


class Execs:
    """All execs of this daemon."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._records = ExecRecords(kit.layout.execs)
        self._execs: dict[str, Exec] = {}

    async def restore(self) -> None:
        """After the daemon was away, and before anything of ended containers is swept: execs that run are watched
        again, the exit codes of those that ended are read."""
        orphans = []
        for record in await self._kit.disk.run(self._records.load):
            container = self._kit.store.find(record.container_id)
            if container is None:
                orphans.append(record.id)
                continue
            item = Exec(record.id, container, record.body, record.command, record.started)
            item.exit_code, item.pid = record.exit_code, record.pid
            self._execs[item.id] = item
            if item.exit_code is None:
                container.execs.add(item.id)
                if item.started:
                    await self._adopt(item)
        await self._kit.disk.run(self._records.remove, orphans)

    async def _adopt(self, item: Exec) -> None:
        try:
            process = await self._kit.runtime.adopt_exec(item.container.id, item.id)
        except (ShoalError, OSError) as error:
            log.error("exec can't be adopted exec=%s error=%s", item.id[:12], error)
            process = None
        if process is None:  # it never came to be, or went without a trace
            await self._ended(item, LOST_CODE)
            return
        item.process, item.running = process, True
        item.pid = item.pid or process.pid
        self._kit.owner.spawn(self._watch(item, process), name=f"exec {item.id[:12]}")

    async def _save(self, item: Exec) -> None:
        """Raises Internal."""
        try:
            await self._kit.disk.run(self._records.save, item.record())
        except OSError as error:
            raise Internal(f"exec {item.id}: {error}") from error

    async def create(self, ref: str, body: ExecBody) -> ExecAnswer:
        """Set one up; nothing runs yet. Raises Conflict if the container does not run or is paused."""
        container = self._kit.store.get(ref)
        _check_running(container, ref)
        command = as_list(body.cmd)
        if not command or not command[0]:
            raise InvalidArgument("No exec command specified")
        parse_keys(body.detach_keys)
        item = Exec(hex_id(), container, body, command)
        await self._save(item)
        self._execs[item.id] = item
        container.execs.add(item.id)
        await self._forget_old(container)
        self._kit.runtime.expect()
        self.publish(item, f"exec_create: {_told(command)}")
        return ExecAnswer(id=item.id)

    def get(self, exec_id: str) -> Exec:
        """By id or unique prefix. Raises NotFound."""
        found = self._execs.get(exec_id)
        if found is None:
            matches = [item for key, item in self._execs.items() if exec_id and key.startswith(exec_id)]
            found = matches[0] if len(matches) == 1 else None
        if found is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return found

    async def start(self, exec_id: str, *, detach: bool, tty: bool) -> ExecSession | None:
        """Start it; a session for its client, which starts it, unless detached.

        Raises Conflict if it was started before, or if the container does not run or is paused; detached, also what
        keeps the command from being started.
        """
        del tty  # the setting of the create is what counts
        item = self.get(exec_id)
        _check_running(item.container, item.container.id)
        if item.started:
            state = "is already running" if item.running else "has already run"
            raise Conflict(f"Error: Exec command {item.id} {state}")
        item.started = True
        body = item.body
        if detach or not (body.attach_stdin or body.attach_stdout or body.attach_stderr):
            await self.launch(item, attached=False)
            return None
        wiring = Wiring(
            tty=body.tty,
            stdin=body.attach_stdin,
            stdout=body.attach_stdout,
            stderr=body.attach_stderr,
            keys=parse_keys(body.detach_keys),
            close_stdin=True,
        )
        return ExecSession(self, item, wiring)

    async def launch(self, item: Exec, *, attached: bool) -> Stream | None:
        """Run its command. Raises what keeps it from being started, and keeps the exit code that stands for it."""
        body = item.body
        io = ProcessIO(tty=body.tty, stdin=attached and body.attach_stdin, stdin_once=True, detached=not attached)
        io = replace(io, keep_exit=True)
        try:
            settings = await self._settings(item)
            await self._save(item)
            running = await self._kit.runtime.exec(item.container.id, item.id, process(settings, self._kit.host), io)
        except NotFound as error:  # the container ended since it was looked at
            raise Conflict(f"Container {item.container.id} is not running") from error
        except ShoalError as error:
            item.exit_code = max(exit_code_of(error.message), EXIT_NOT_EXECUTABLE)
            item.container.execs.discard(item.id)
            await self._save(item)
            raise
        item.process, item.pid, item.running = running, running.pid, True
        stream = await running.attach() if attached else None
        self._kit.owner.spawn(self._watch(item, running), name=f"exec {item.id[:12]}")
        self.publish(item, f"exec_start: {_told(item.command)}")
        return stream

    async def run(self, container: Container, command: list[str]) -> tuple[Process, Stream]:
        """A command of the engine's own (a health check) with the container's settings; not kept here."""
        item = Exec(hex_id(), container, ExecBody(), command)
        settings = await self._settings(item)
        running = await self._kit.runtime.exec(container.id, item.id, process(settings, self._kit.host), ProcessIO())
        return running, await running.attach()

    async def _settings(self, item: Exec) -> ProcessSettings:
        record, body = item.container.record, item.body
        config, wish = record.config, record.host_config
        # Through the process: the overlay may be mounted in the namespace of an earlier daemon only.
        root = Path(f"/proc/{record.pid}/root")
        passwd = await self._kit.disk.run(read_text, root, "/etc/passwd")
        group = await self._kit.disk.run(read_text, root, "/etc/group")
        identity = users.resolve(body.user or config.user, passwd, group, wish.group_add or [])
        env = merge_env(body.env or [], config.env or [])
        chosen = chosen_capabilities(wish, self._kit.host)
        if body.privileged:
            chosen = capabilities.choose(privileged=True, bounding=self._kit.host.capabilities)
        return ProcessSettings(
            args=item.command,
            env=process_env(record, identity, env, tty=body.tty),
            cwd=body.working_dir or config.working_dir or "/",
            user=identity.user,
            tty=body.tty,
            capabilities=chosen,
            no_new_privileges=check_security(wish.security_opt or []).no_new_privileges,
            rlimits=[Rlimit(limit.name, limit.soft, limit.hard) for limit in wish.ulimits or []],
        )

    async def _watch(self, item: Exec, running: Process) -> None:
        ended = await running.wait()
        await self._ended(item, ended.code)

    async def _ended(self, item: Exec, code: int) -> None:
        item.exit_code, item.running, item.process = code, False, None
        item.container.execs.discard(item.id)
        self.publish(item, "exec_die", exitCode=str(code))
        if item.id not in self._execs:
            return  # its container has been removed
        try:
            await self._save(item)
        except Internal as error:
            log.error("the exit of an exec is kept in memory only exec=%s error=%s", item.id[:12], error.message)
        await self._kit.runtime.forget_exec(item.container.id, item.id)

    async def settled(self, item: Exec) -> None:
        """Wait until its exit code can be read, so that a client that saw the end of the output finds it."""
        if item.process is not None:
            ended = await item.process.wait()
            item.exit_code, item.running = ended.code, False

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        """Characters. Raises Conflict if it does not run or has no terminal."""
        item = self.get(exec_id)
        if item.process is None or not item.running:
            raise Conflict(f"Exec command {item.id} is not running")
        if not item.body.tty:
            raise Conflict(f"Exec command {item.id} has no tty")
        await item.process.resize(height, width)

    def inspect(self, exec_id: str) -> ExecInspect:
        item = self.get(exec_id)
        body = item.body
        return ExecInspect(
            id=item.id,
            container_id=item.container.id,
            detach_keys=body.detach_keys,
            exit_code=item.exit_code,
            open_stderr=body.attach_stderr,
            open_stdin=body.attach_stdin,
            open_stdout=body.attach_stdout,
            process_config=ProcessConfig(
                arguments=item.command[1:],
                entrypoint=item.command[0],
                privileged=body.privileged,
                tty=body.tty,
                user=body.user,
            ),
            running=item.running,
            pid=item.pid,
        )

    def publish(self, item: Exec, action: str, **extra: str) -> None:
        container = item.container
        attributes = container.attributes(execID=item.id, **extra)
        self._kit.events.publish("container", action, container.id, attributes)

    async def forget(self, container: Container) -> None:
        """Its container is gone."""
        await self._drop([key for key, item in self._execs.items() if item.container is container])
        container.execs.clear()

    async def _drop(self, ids: list[str]) -> None:
        for exec_id in ids:
            self._execs.pop(exec_id)
        await self._kit.disk.run(self._records.remove, ids)

    async def _forget_old(self, container: Container) -> None:
        finished = [
            item for item in self._execs.values() if item.container is container and item.started and not item.running
        ]
        await self._drop([item.id for item in finished[:-FINISHED_KEPT]])


def _told(command: list[str]) -> str:
    """The command as events tell it: the program, a space, its arguments."""
    return f"{command[0]} {' '.join(command[1:])}"


def _check_running(container: Container, called: str) -> None:
    """`called`: the container as the client named it."""
    if container.record.status is Status.PAUSED:
        raise Conflict(f"Container {called} is paused, unpause the container before exec")
    if container.record.status is Status.RESTARTING:
        raise Conflict(f"Container {called} is restarting, wait until the container is running")
    if not container.running:
        raise Conflict(f"Container {container.id} is not running")
