"""The stdio of a monitored process: its pipes or its terminal. Standard library only.

It keeps: what the process wrote is handed on once and in order; what it is given waits in a bounded buffer (who feeds
it looks at `full`); a descriptor that ended is closed at once.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable

from worker.engine.runtime import frames
from worker.engine.runtime.reactor import GONE, IN, OUT, Reactor

READ_BYTES = 64 * 1024
MAX_STDIN = 256 * 1024
RETRY_SECONDS = 0.05
_WINSIZE = struct.Struct("HHHH")


class Stdio:
    """Our ends of the descriptors of one process."""

    def __init__(
        self,
        reactor: Reactor,
        took: Callable[[int, bytes], None],
        relieved: Callable[[], None],
        *,
        close_once: bool,
    ) -> None:
        """
        Args:
            took: gets what the process wrote: frames.STDOUT or STDERR, and the bytes.
            relieved: stdin was full and no longer is.
            close_once: the end of input is passed on to a pipe (`stdin_once`).
        """
        self._reactor = reactor
        self._took = took
        self._relieved = relieved
        self._close_once = close_once
        self.reading = True
        """False: the process is held back until attachers have taken some of its output."""
        self._outputs: dict[int, int] = {}  # descriptor -> frames.STDOUT or STDERR
        self._stdin = -1
        self._stdin_buffer = bytearray()
        self._stdin_closing = False
        self._master = -1
        self._retry_at = 0.0
        self._ended = False

    @property
    def open(self) -> bool:
        """Output may still come."""
        return bool(self._outputs)

    @property
    def retrying(self) -> bool:
        """`turn` wants to be called soon."""
        return bool(self._retry_at)

    @property
    def full(self) -> bool:
        """More waits for the process's stdin than should."""
        return len(self._stdin_buffer) > MAX_STDIN

    def pipes(self, *, stdin: bool) -> tuple[int, int, int]:
        """New pipes; the process's ends, which the caller closes once the process has them. Without `stdin` its first
        reads nothing."""
        if stdin:
            theirs, self._stdin = os.pipe()
            os.set_blocking(self._stdin, False)
        else:
            theirs = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        return theirs, self._output(frames.STDOUT), self._output(frames.STDERR)

    def _output(self, stream: int) -> int:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self._outputs[ours] = stream
        self._reactor.add(ours, IN, lambda events: self._output_ready(ours, events))
        return theirs

    def terminal(self, master: int) -> None:
        """The process has a terminal, of which this is the other side."""
        self._master = self._stdin = master
        os.set_blocking(master, False)
        self._outputs[master] = frames.STDOUT
        self._reactor.add(master, self._output_events(master), self._terminal_ready)
        self._watch_stdin()

    def turn(self) -> None:
        """Look again at a terminal that nobody held."""
        if self._retry_at and time.monotonic() >= self._retry_at:
            self._retry_at = 0.0
            self._reactor.add(self._master, self._output_events(self._master), self._terminal_ready)

    def process_ended(self) -> None:
        """Nobody reads a pipe any more; a terminal that ends now has really ended."""
        self._ended = True
        if self._master < 0:
            self._forget_stdin()

    # --- output --------------------------------------------------------------------------------------------------

    def _terminal_ready(self, events: int) -> None:
        if events & OUT:
            self._write_stdin()
        self._output_ready(self._master, events)

    def _output_ready(self, fd: int, events: int) -> None:
        if not events & (IN | GONE) or not self.reading:
            return
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # EIO: the last holder of the terminal has gone
            data = b""
        if data:
            self._took(self._outputs[fd], data)
        else:
            self._end_output(fd)

    def _end_output(self, fd: int) -> None:
        self._reactor.drop(fd)
        if fd == self._master:
            # A terminal reads as ended whenever nobody holds its other side, also before the process opened it.
            if not self._ended:
                self._retry_at = time.monotonic() + RETRY_SECONDS
                return
            self._master = self._stdin = -1
        del self._outputs[fd]
        os.close(fd)

    def read(self, reading: bool) -> None:
        """Read the process's output, or hold it back."""
        self.reading = reading
        for fd in self._outputs:
            self._watch_output(fd)

    def _watch_output(self, fd: int) -> None:
        if fd in self._reactor:
            self._reactor.change(fd, self._output_events(fd))

    def _output_events(self, fd: int) -> int:
        writing = fd == self._master and bool(self._stdin_buffer)
        return (IN if self.reading else 0) | (OUT if writing else 0)

    # --- stdin and size ------------------------------------------------------------------------------------------

    def give(self, data: bytes) -> None:
        """Input for the process; dropped when it takes none any more."""
        if not self._stdin_closing and self._stdin >= 0:
            self._stdin_buffer += data
            self._write_stdin()

    def _write_stdin(self) -> None:
        was_full = self.full
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
        if was_full and not self.full:
            self._relieved()

    def _watch_stdin(self) -> None:
        if self._stdin < 0:
            return
        if self._stdin == self._master:
            self._watch_output(self._master)
            return
        watched = self._stdin in self._reactor
        if self._stdin_buffer and not watched:
            self._reactor.add(self._stdin, OUT, lambda _: self._write_stdin())
        elif not self._stdin_buffer and watched:
            self._reactor.drop(self._stdin)

    def end_input(self) -> None:
        """End of input, after what is buffered. Only with `close_once`; a terminal has no half-close."""
        if self._close_once:
            self._stdin_closing = True
            self._write_stdin()

    def _forget_stdin(self) -> None:
        """Nobody reads it any more, or all was written: close our end and drop what was left."""
        self._stdin_buffer.clear()
        if self._stdin < 0 or self._stdin == self._master:
            return
        if self._stdin in self._reactor:
            self._reactor.drop(self._stdin)
        os.close(self._stdin)
        self._stdin = -1

    def resize(self, height: int, width: int) -> None:
        """The size of the terminal, if there is one."""
        if self._master >= 0:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, _WINSIZE.pack(height, width, 0, 0))
