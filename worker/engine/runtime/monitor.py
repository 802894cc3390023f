"""The monitor: one per container and per exec, forked by the zygote. Standard library only.

It creates the process through the OCI runtime, owns its stdio, writes its log, serves attachers, reaps it, and leaves
an exit file. It depends on nobody: the daemon and the zygote may die at any time. What it must keep: every byte of
output reaches the log; an attacher that takes nothing is cut off; the exit file is whole before anyone is told, and
safe from a power cut, too, if no daemon is there to write the end down.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import time
import traceback
from typing import Any, NoReturn

from worker.engine.logs.jsonfile import JsonFileLog
from worker.engine.runtime import exitfile, frames
from worker.engine.runtime.attachers import Connection
from worker.engine.runtime.cgroups import Oom
from worker.engine.runtime.peers import Peers, listen
from worker.engine.runtime.reactor import IN, Reactor
from worker.engine.runtime.stdio import RETRY_SECONDS, Stdio

DRAIN_SECONDS = 1.0
"""How long output is awaited after the process ended, when something else still holds its pipes."""
LEAVE_SECONDS = 10.0
PR_SET_CHILD_SUBREAPER = 36


def main(plan: dict[str, Any], program: str, connection: socket.socket) -> NoReturn:
    """Be the monitor of `plan` (see `MonitorRuntime._fork`), whose commands `program` runs; never returns."""
    code = 1
    try:
        _detach_from_daemon()
        Monitor(plan, program, connection).run()
        code = 0
    except BaseException:  # noqa: BLE001 - the last line of defence: leave a trace for the daemon's log
        with open(os.path.join(plan["directory"], "monitor.err"), "w", encoding="utf-8") as file:
            traceback.print_exc(file=file)
    finally:
        os._exit(code)


def _detach_from_daemon() -> None:
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    os.chdir("/")
    os.umask(0o022)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Monitor:
    """The life of one process."""

    def __init__(self, plan: dict[str, Any], program: str, connection: socket.socket) -> None:
        self._plan = plan
        self._directory: str = plan["directory"]
        self._reactor = Reactor(program)
        self._peers = Peers(self._reactor, self._frame, self._heard, self._changed)
        self._stdio = Stdio(
            self._reactor, self._output, self._relieved, close_once=plan["stdin_once"] and not plan["tty"]
        )
        self._log: JsonFileLog | None = None
        self._waiting = False
        """The process is created for the first attacher."""
        self._pid = 0
        self._failure = ""
        self._exit: dict[str, Any] | None = None
        self._drain_until = 0.0
        self._oom: Oom | None = None
        self._peers.add(connection)

    def run(self) -> None:
        """From creation to the end of the process."""
        with open(self._path("monitor.pid"), "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        self._reactor.watch_children()
        listener = listen(self._path("sock"))
        self._peers.serve(listener)
        if self._plan["log_path"]:
            self._log = JsonFileLog(self._plan["log_path"], self._plan["log_max_bytes"], self._plan["log_max_files"])
        for connection in self._peers:
            self._peers.send(connection, frames.LISTENING)
        self._waiting = self._plan["await_attach"]
        if not self._waiting:
            self._create()
        while not self._failure and not self._finished():
            self._turn()
        if self._exit is not None:
            self._report_exit()
        self._leave()

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _turn(self) -> None:
        self._stdio.turn()
        self._reactor.turn(self._timeout())
        self._peers.cut_off_stalled()
        if not self._stdio.reading:
            self._pace()

    def _timeout(self) -> float:
        if self._exit is not None or self._stdio.retrying or not self._stdio.reading:
            return RETRY_SECONDS
        return 0.5 if self._peers.lagging else -1.0

    # --- creating and starting -----------------------------------------------------------------------------------

    def _create(self) -> None:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        theirs = (null, null, null)
        if self._plan["tty"]:
            self._await_console()
        else:
            theirs = self._stdio.pipes(stdin=self._plan["stdin"])
        try:
            self._reactor.spawn(self._plan["create"], theirs, self._created)
        except OSError as error:
            self._fail(f"{self._plan['create'][0]}: {error.strerror}")
        for fd in {null, *theirs}:
            os.close(fd)

    def _await_console(self) -> None:
        """The runtime sends the terminal's other side to a socket."""
        console = listen(self._path("console"))

        def connected(_: int) -> None:
            peer, _address = console.accept()
            peer.setblocking(True)
            _data, descriptors, _flags, _from = socket.recv_fds(peer, 4096, 1)
            peer.close()
            self._reactor.drop(console.fileno())
            console.close()
            self._stdio.terminal(descriptors[0])

        self._reactor.add(console.fileno(), IN, connected)

    def _created(self, status: int) -> None:
        if status != 0:
            self._fail(self._complaint(status))
            return
        with open(self._path("pid"), encoding="ascii") as file:
            self._pid = int(file.read())
        self._oom = Oom(self._pid)
        for connection in self._peers:
            if connection.role == frames.CONTROL:
                self._peers.send(connection, frames.READY, self._ready())
        self._reactor.claim(self._pid, self._ended)

    def _ready(self, log: dict[str, Any] | None = None) -> bytes:
        return json.dumps({"pid": self._pid, "log": log}).encode()

    def _fail(self, message: str) -> None:
        self._failure = message
        for connection in self._peers:
            self._peers.send(connection, frames.FAILED, message.encode())

    def _start(self, connection: Connection) -> None:
        def started(status: int) -> None:
            message = "" if status == 0 else self._complaint(status)
            self._peers.send(connection, frames.STARTED, message.encode())

        try:
            self._reactor.spawn_silent(self._plan["start"], started)
        except OSError as error:
            message = f"{self._plan['start'][0]}: {error.strerror}"
            self._peers.send(connection, frames.STARTED, message.encode())

    def _complaint(self, status: int) -> str:
        """Why the runtime failed: the last message of its own log."""
        try:
            with open(self._path("log"), encoding="utf-8", errors="replace") as file:
                lines = [line for line in file if line.strip()]
            message = str(json.loads(lines[-1])["msg"])
        except (OSError, LookupError, ValueError):
            message = ""
        return message or f"the runtime ended with {exitfile.exit_code(status)}"

    # --- between the process and those who are connected ---------------------------------------------------------

    def _output(self, stream: int, data: bytes) -> None:
        if self._log is not None:
            self._log.write(stream, data)
        for connection in self._peers:
            if connection.role == frames.ATTACH:
                self._peers.send(connection, stream, data)

    def _frame(self, connection: Connection, kind: int, payload: bytes) -> None:
        if kind in (frames.ATTACH, frames.CONTROL) and connection.role == 0:
            self._greet(connection, kind)
        elif kind == frames.STDIN:
            connection.gave_stdin = True
            self._stdio.give(payload)
        elif kind == frames.CLOSE_STDIN:
            connection.gave_stdin = True
            self._stdio.end_input()
        elif kind == frames.DETACH:
            if connection.gave_stdin:
                self._stdio.end_input()
            self._peers.hang_up(connection)
        elif kind == frames.RESIZE:
            self._stdio.resize(*frames.SIZE.unpack(payload))
        elif kind == frames.START:
            self._start(connection)

    def _greet(self, connection: Connection, role: int) -> None:
        connection.role = role
        if self._exit is not None:
            self._peers.send(connection, frames.ENDED)
        elif self._pid or role == frames.ATTACH:
            log = self._log.place() if self._log is not None and role == frames.ATTACH else None
            self._peers.send(connection, frames.READY, self._ready(log))
        if self._waiting and role == frames.ATTACH:
            self._waiting = False
            self._create()

    def _heard(self, connection: Connection) -> bool:
        """A full stdin holds back who feeds it, and only while somebody can still drain it."""
        return not (connection.gave_stdin and self._stdio.full)

    def _relieved(self) -> None:
        for connection in self._peers:
            self._peers.update(connection)

    def _changed(self) -> None:
        self._pace()
        if self._waiting and not self._peers:
            self._failure = "the daemon went away before the process was created"

    def _pace(self) -> None:
        """Stop reading the process while an attacher lags too much, so that a slow one loses nothing. When the process
        has ended nobody holds it back: what it left in its pipes is little."""
        reading = self._exit is not None or self._peers.allow_reading(self._stdio.reading)
        if reading != self._stdio.reading:
            self._stdio.read(reading)

    # --- the end -------------------------------------------------------------------------------------------------

    def _ended(self, status: int) -> None:
        self._exit = {
            "code": exitfile.exit_code(status),
            "at_ns": time.time_ns(),
            "oom": self._oom is not None and self._oom.happened(),
            "error": "",
        }
        self._drain_until = time.monotonic() + DRAIN_SECONDS
        self._pace()
        self._stdio.process_ended()

    def _finished(self) -> bool:
        """Ended, and all its output read; or what is left of it is held by others and silent for long enough."""
        if self._exit is None:
            return False
        return not self._stdio.open or time.monotonic() > self._drain_until

    def _report_exit(self) -> None:
        if self._log is not None:
            self._log.close()
        content = json.dumps(self._exit)
        heard = any(connection.role == frames.CONTROL for connection in self._peers)
        exitfile.write(self._plan["exit_file"], content, sync=not heard)
        for connection in self._peers:
            self._peers.send(connection, frames.EXIT, content.encode())

    def _leave(self) -> None:
        """Remove the container's remains while the attachers take the last bytes, then go."""
        cleaned: list[int] = []
        if self._plan["cleanup"]:
            try:
                self._reactor.spawn_silent(self._plan["cleanup"], cleaned.append)
            except OSError:
                cleaned.append(1)
        else:
            cleaned.append(0)
        until = time.monotonic() + LEAVE_SECONDS
        told = False
        while time.monotonic() < until:
            if cleaned and not told:
                # From here on nothing of ours touches the directory: the daemon may remove it.
                os.unlink(self._path("sock"))
                told = True
            for connection in self._peers:
                if not connection.lag and (told or connection.role == frames.ATTACH):
                    self._peers.hang_up(connection)
            if told and not self._peers:
                return
            self._turn()
