"""The monitor: one per container and per exec, forked by the zygote. Standard library only.

It creates the process through the OCI runtime, owns its stdio, writes its log, serves attachers, reaps it, and leaves
an exit file. It depends on nobody: the daemon and the zygote may die at any time. What it must keep: every byte of
output reaches the log; an attacher that takes nothing is cut off; the exit file is whole before anyone is told, and
safe from a power cut, too, if no daemon is there to write the end down.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import termios
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from worker.engine.logs.jsonfile import JsonFileLog
from worker.engine.runtime import frames
from worker.engine.runtime.attachers import Connection
from worker.engine.runtime.cgroups import Oom

READ_BYTES = 64 * 1024
MAX_LAG = 1024 * 1024
"""What may wait for one attacher; at this the monitor stops reading the process until the attacher has taken some."""
HOLD_SECONDS = 0.5
"""An attacher that takes nothing for so long no longer holds the process back: what it misses is kept for it, up to
MAX_SPILL."""
MAX_SPILL = 16 * 1024 * 1024
STALL_SECONDS = 5.0
"""An attacher for which MAX_SPILL is kept and that still takes nothing is cut off after so long."""
MAX_STDIN = 256 * 1024
DRAIN_SECONDS = 1.0
"""How long output is awaited after the process ended, when something else still holds its pipes."""
LEAVE_SECONDS = 10.0
RETRY_SECONDS = 0.05
PR_SET_CHILD_SUBREAPER = 36
_WINSIZE = struct.Struct("HHHH")
_IN, _OUT, _GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR


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
    """The event loop around one process."""

    def __init__(self, plan: dict[str, Any], program: str, connection: socket.socket) -> None:
        self._plan = plan
        self._program = program
        self._directory: str = plan["directory"]
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._connections: dict[int, Connection] = {}
        self._children: dict[int, Callable[[int], None]] = {}
        self._unclaimed: dict[int, int] = {}
        self._outputs: dict[int, int] = {}  # descriptor -> frames.STDOUT or STDERR
        self._reading = True
        self._stdin = -1
        self._stdin_buffer = bytearray()
        self._stdin_closing = False
        self._master = -1
        self._retry_at = 0.0
        self._log: JsonFileLog | None = None
        self._pid = 0
        self._failure = ""
        self._exit: dict[str, Any] | None = None
        self._drain_until = 0.0
        self._oom: Oom | None = None
        self._add_connection(connection)

    def run(self) -> None:
        """From creation to the end of the process."""
        self._write("monitor.pid", str(os.getpid()))
        self._watch_children()
        self._listener = self._listen("sock", self._accepted)
        if self._plan["log_path"]:
            self._log = JsonFileLog(self._plan["log_path"], self._plan["log_max_bytes"], self._plan["log_max_files"])
        for connection in list(self._connections.values()):
            self._send(connection, frames.LISTENING)
        self._waiting: bool = self._plan["await_attach"]
        if not self._waiting:
            self._create()
        while not self._failure and not self._finished():
            self._turn()
        if self._exit is not None:
            self._report_exit()
        self._leave()

    # --- the loop ------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        if self._retry_at and time.monotonic() >= self._retry_at:
            self._retry_at = 0.0
            self._add(self._master, self._output_events(self._master), self._terminal_ready)
        for fd, events in self._epoll.poll(self._timeout()):
            handler = self._handlers.get(fd)  # an earlier handler of this turn may have dropped it
            if handler is not None:
                handler(events)
        self._cut_off_stalled()

    def _timeout(self) -> float:
        if self._exit is not None or self._retry_at or not self._reading:
            return RETRY_SECONDS
        return 0.5 if any(connection.lag for connection in self._connections.values()) else -1.0

    def _add(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def _drop(self, fd: int) -> None:
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def _watch_children(self) -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

        def awake(_: int) -> None:
            os.read(read_end, 4096)
            self._reap()

        self._add(read_end, _IN, awake)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            claim = self._children.pop(pid, None)
            if claim is not None:
                claim(status)
            elif not self._pid:
                # The process may end before its pid file is read. Later ones are orphans of the container.
                self._unclaimed[pid] = status

    def _spawn(self, argv: list[str], stdio: tuple[int, int, int], ended: Callable[[int], None]) -> None:
        """Run the OCI runtime with default signals and only these descriptors."""
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)]
        pid = os.posix_spawnp(
            self._program,
            argv,
            os.environ,
            file_actions=actions,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD],
        )
        self._children[pid] = ended

    # --- creating and starting -----------------------------------------------------------------------------------

    def _create(self) -> None:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        child = [null, null, null]
        if self._plan["tty"]:
            self._console = self._listen("console", self._console_connected)
        else:
            if self._plan["stdin"]:
                child[0], self._stdin = os.pipe()
                os.set_blocking(self._stdin, False)
            for number in (frames.STDOUT, frames.STDERR):
                read_end, child[number] = os.pipe()
                self._add_output(read_end, number)
        try:
            self._spawn(self._plan["create"], (child[0], child[1], child[2]), self._created)
        except OSError as error:
            self._fail(f"{self._plan['create'][0]}: {error.strerror}")
        for fd in {null, *child}:
            os.close(fd)

    def _created(self, status: int) -> None:
        if status != 0:
            self._fail(self._runtime_error() or f"the runtime ended with {_exit_code(status)}")
            return
        with open(os.path.join(self._directory, "pid"), encoding="ascii") as file:
            self._pid = int(file.read())
        self._oom = Oom(self._pid)
        self._children[self._pid] = self._ended
        for connection in list(self._connections.values()):
            if connection.role == frames.CONTROL:
                self._send(connection, frames.READY, self._ready())
        if self._pid in self._unclaimed:
            del self._children[self._pid]
            self._ended(self._unclaimed.pop(self._pid))

    def _ready(self, log: dict[str, Any] | None = None) -> bytes:
        return json.dumps({"pid": self._pid, "log": log}).encode()

    def _fail(self, message: str) -> None:
        self._failure = message
        for connection in list(self._connections.values()):
            self._send(connection, frames.FAILED, message.encode())

    def _start(self, connection: Connection) -> None:
        def started(status: int) -> None:
            message = "" if status == 0 else self._runtime_error() or f"the runtime ended with {_exit_code(status)}"
            if connection.fd in self._connections:
                self._send(connection, frames.STARTED, message.encode())

        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._spawn(self._plan["start"], (null, null, null), started)
        except OSError as error:
            self._send(connection, frames.STARTED, f"{self._plan['start'][0]}: {error.strerror}".encode())
        os.close(null)

    def _runtime_error(self) -> str:
        """The last message of the runtime's own log."""
        try:
            with open(os.path.join(self._directory, "log"), encoding="utf-8", errors="replace") as file:
                lines = [line for line in file if line.strip()]
            return str(json.loads(lines[-1])["msg"])
        except (OSError, LookupError, ValueError):
            return ""

    def _console_connected(self, _: int) -> None:
        peer, _address = self._console.accept()
        peer.setblocking(True)
        _data, descriptors, _flags, _from = socket.recv_fds(peer, 4096, 1)
        peer.close()
        self._drop(self._console.fileno())
        self._console.close()
        self._master = self._stdin = descriptors[0]
        os.set_blocking(self._master, False)
        self._outputs[self._master] = frames.STDOUT
        self._add(self._master, self._output_events(self._master), self._terminal_ready)
        self._watch_stdin()

    # --- output --------------------------------------------------------------------------------------------------

    def _add_output(self, fd: int, stream: int) -> None:
        os.set_blocking(fd, False)
        self._outputs[fd] = stream
        self._add(fd, _IN, lambda events: self._output_ready(fd, events))

    def _terminal_ready(self, events: int) -> None:
        if events & _OUT:
            self._write_stdin()
        self._output_ready(self._master, events)

    def _output_ready(self, fd: int, events: int) -> None:
        if not events & (_IN | _GONE) or not self._reading:
            return
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # EIO: the last holder of the terminal has gone
            data = b""
        if not data:
            self._end_output(fd)
            return
        stream = self._outputs[fd]
        if self._log is not None:
            self._log.write(stream, data)
        for connection in list(self._connections.values()):
            if connection.role == frames.ATTACH:
                self._send(connection, stream, data)

    def _end_output(self, fd: int) -> None:
        if fd == self._master:
            self._drop(fd)
            # A terminal reads as ended whenever nobody holds its other side, also before the process opened it.
            if self._exit is None:
                self._retry_at = time.monotonic() + RETRY_SECONDS
                return
            self._master = self._stdin = -1
        else:
            self._drop(fd)
        del self._outputs[fd]
        os.close(fd)

    def _pace(self) -> None:
        """Stop reading the process while an attacher lags too much, so that a slow one loses nothing. One that takes
        nothing does so only when much is kept for it, and when the process has ended nobody does: what it left in its
        pipes is little."""
        most = MAX_LAG if self._reading else MAX_LAG // 2
        reading = self._exit is not None or not any(
            each.lag >= (most if each.stalled_for() < HOLD_SECONDS else MAX_SPILL)
            for each in self._connections.values()
        )
        if reading == self._reading:
            return
        self._reading = reading
        for fd in self._outputs:
            self._watch_output(fd)

    def _watch_output(self, fd: int) -> None:
        if fd in self._handlers:
            self._epoll.modify(fd, self._output_events(fd))

    def _output_events(self, fd: int) -> int:
        writing = fd == self._master and bool(self._stdin_buffer)
        return (_IN if self._reading else 0) | (_OUT if writing else 0)

    def _cut_off_stalled(self) -> None:
        for connection in list(self._connections.values()):
            if connection.lag >= MAX_SPILL and connection.stalled_for() > STALL_SECONDS:
                self._hang_up(connection)
        if not self._reading:
            self._pace()

    # --- connections ---------------------------------------------------------------------------------------------

    def _listen(self, name: str, handler: Callable[[int], None]) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(os.path.join(self._directory, name))
        listener.listen(64)
        listener.setblocking(False)
        self._add(listener.fileno(), _IN, handler)
        return listener

    def _accepted(self, _: int) -> None:
        try:
            self._add_connection(self._listener.accept()[0])
        except OSError:
            pass  # it went away again, or descriptors are short: the peer sees a refused or closed connection

    def _add_connection(self, peer: socket.socket) -> None:
        connection = Connection(peer)
        self._connections[connection.fd] = connection
        self._add(connection.fd, _IN, lambda events: self._connection_ready(connection, events))

    def _connection_ready(self, connection: Connection, events: int) -> None:
        if events & _OUT:
            connection.flush()
        if events & (_IN | _GONE):
            received = connection.receive()
            if received is None:
                self._hang_up(connection)
                return
            for kind, payload in received:
                self._frame(connection, kind, payload)
        self._update(connection)

    def _frame(self, connection: Connection, kind: int, payload: bytes) -> None:
        if kind in (frames.ATTACH, frames.CONTROL) and connection.role == 0:
            self._greet(connection, kind)
        elif kind == frames.STDIN:
            connection.gave_stdin = True
            if not self._stdin_closing and self._stdin >= 0:
                self._stdin_buffer += payload
                self._write_stdin()
        elif kind == frames.CLOSE_STDIN:
            connection.gave_stdin = True
            self._close_stdin()
        elif kind == frames.DETACH:
            if connection.gave_stdin:
                self._close_stdin()
            self._hang_up(connection)
        elif kind == frames.RESIZE:
            self._resize(*frames.SIZE.unpack(payload))
        elif kind == frames.START:
            self._start(connection)

    def _greet(self, connection: Connection, role: int) -> None:
        connection.role = role
        if self._exit is not None:
            self._send(connection, frames.ENDED)
        elif self._pid or role == frames.ATTACH:
            log = self._log.place() if self._log is not None and role == frames.ATTACH else None
            self._send(connection, frames.READY, self._ready(log))
        if self._waiting and role == frames.ATTACH:
            self._waiting = False
            self._create()

    def _send(self, connection: Connection, kind: int, payload: bytes = b"") -> None:
        if connection.fd not in self._connections:
            return
        connection.send(kind, payload)
        self._update(connection)

    def _update(self, connection: Connection) -> None:
        """Ask epoll for what this connection can use now."""
        if connection.fd not in self._connections:
            return
        # A full stdin holds back who feeds it, and only while somebody can still drain it.
        listening = not (connection.gave_stdin and len(self._stdin_buffer) > MAX_STDIN)
        self._epoll.modify(connection.fd, (_IN if listening else 0) | (_OUT if connection.lag else 0))
        self._pace()

    def _hang_up(self, connection: Connection) -> None:
        if self._connections.pop(connection.fd, None) is None:
            return
        self._drop(connection.fd)
        connection.close()
        self._pace()
        if self._waiting and not self._connections:
            self._failure = "the daemon went away before the process was created"

    # --- stdin and size ------------------------------------------------------------------------------------------

    def _write_stdin(self) -> None:
        was_full = len(self._stdin_buffer) > MAX_STDIN
        while self._stdin_buffer and self._stdin >= 0:
            try:
                written = os.write(self._stdin, self._stdin_buffer[:READ_BYTES])
            except BlockingIOError:
                break
            except OSError:
                self._forget_stdin()
                break
            del self._stdin_buffer[:written]
        self._watch_stdin()
        if self._stdin_closing and not self._stdin_buffer:
            self._forget_stdin()
        if was_full and len(self._stdin_buffer) <= MAX_STDIN:
            for connection in list(self._connections.values()):
                self._update(connection)

    def _watch_stdin(self) -> None:
        if self._stdin < 0:
            return
        if self._stdin == self._master:
            self._watch_output(self._master)
            return
        watched = self._stdin in self._handlers
        if self._stdin_buffer and not watched:
            self._add(self._stdin, _OUT, lambda _: self._write_stdin())
        elif not self._stdin_buffer and watched:
            self._drop(self._stdin)

    def _close_stdin(self) -> None:
        """End of input, after what is buffered. Only with `stdin_once`; a terminal has no half-close."""
        if self._plan["stdin_once"] and not self._plan["tty"]:
            self._stdin_closing = True
            self._write_stdin()

    def _forget_stdin(self) -> None:
        """Nobody reads it any more, or all was written: close our end and drop what was left."""
        self._stdin_buffer.clear()
        if self._stdin < 0 or self._stdin == self._master:
            return
        if self._stdin in self._handlers:
            self._drop(self._stdin)
        os.close(self._stdin)
        self._stdin = -1

    def _resize(self, height: int, width: int) -> None:
        if self._master >= 0:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, _WINSIZE.pack(height, width, 0, 0))

    # --- the end -------------------------------------------------------------------------------------------------

    def _ended(self, status: int) -> None:
        self._exit = {
            "code": _exit_code(status),
            "at_ns": time.time_ns(),
            "oom": self._oom is not None and self._oom.happened(),
            "error": "",
        }
        self._drain_until = time.monotonic() + DRAIN_SECONDS
        self._pace()
        if self._master < 0:
            self._forget_stdin()

    def _finished(self) -> bool:
        """Ended, and all its output read; or what is left of it is held by others and silent for long enough."""
        if self._exit is None:
            return False
        if not self._outputs:
            return True
        return time.monotonic() > self._drain_until

    def _report_exit(self) -> None:
        if self._log is not None:
            self._log.close()
        content = json.dumps(self._exit)
        heard = any(connection.role == frames.CONTROL for connection in self._connections.values())
        self._write_whole(self._plan["exit_file"], content, sync=not heard)
        for connection in list(self._connections.values()):
            self._send(connection, frames.EXIT, content.encode())

    def _leave(self) -> None:
        """Remove the container's remains while the attachers take the last bytes, then go."""
        cleaned: list[int] = []
        if self._plan["cleanup"]:
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            try:
                self._spawn(self._plan["cleanup"], (null, null, null), cleaned.append)
            except OSError:
                cleaned.append(1)
        else:
            cleaned.append(0)
        until = time.monotonic() + LEAVE_SECONDS
        told = False
        while time.monotonic() < until:
            if cleaned and not told:
                # From here on nothing of ours touches the directory: the daemon may remove it.
                os.unlink(os.path.join(self._directory, "sock"))
                told = True
            for connection in list(self._connections.values()):
                if not connection.lag and (told or connection.role == frames.ATTACH):
                    self._hang_up(connection)
            if told and not self._connections:
                return
            self._turn()

    def _write(self, name: str, content: str) -> None:
        with open(os.path.join(self._directory, name), "w", encoding="utf-8") as file:
            file.write(content)

    def _write_whole(self, path: str, content: str, *, sync: bool) -> None:
        """A reader sees all of it or nothing; with `sync` also after a power cut."""
        temporary = path + ".tmp"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, content.encode())
                if sync:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, path)
            if not sync:
                return
            directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError:
            pass  # its directory was removed or the disk is full: those who listen are still told


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
