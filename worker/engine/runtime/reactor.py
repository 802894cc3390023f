"""The event loop of a monitor: descriptors with their handlers, and children with who waits for them.

Standard library only. It keeps: a handler is called for no descriptor that an earlier handler of the same turn has
dropped; the end of a child that nobody has claimed yet is remembered until the container's process is known.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable

IN, OUT, GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR


class Reactor:
    """One per monitor; single-threaded."""

    def __init__(self, program: str) -> None:
        """`program` runs the commands that `spawn` gets."""
        self._program = program
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._children: dict[int, Callable[[int], None]] = {}
        self._unclaimed: dict[int, int] | None = {}

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds (negative: without end) and handle what happened."""
        for fd, events in self._epoll.poll(timeout):
            handler = self._handlers.get(fd)  # an earlier handler of this turn may have dropped it
            if handler is not None:
                handler(events)

    def __contains__(self, fd: int) -> bool:
        return fd in self._handlers

    def add(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def drop(self, fd: int) -> None:
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def watch_children(self) -> None:
        """From now on a turn ends when a child does."""
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

        def awake(_: int) -> None:
            os.read(read_end, 4096)
            self._reap()

        self.add(read_end, IN, awake)

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
            elif self._unclaimed is not None:
                self._unclaimed[pid] = status

    def spawn(self, argv: list[str], stdio: tuple[int, int, int], ended: Callable[[int], None]) -> None:
        """Run the OCI runtime with default signals and only these descriptors; `ended` gets its wait status. Raises
        OSError."""
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

    def spawn_silent(self, argv: list[str], ended: Callable[[int], None]) -> None:
        """The same, with nothing to read and nobody to hear it."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.spawn(argv, (null, null, null), ended)
        finally:
            os.close(null)

    def claim(self, pid: int, ended: Callable[[int], None]) -> None:
        """This is the container's process, which may have ended before its pid file was read. Whatever other child
        ends from now on is an orphan of the container."""
        early, self._unclaimed = self._unclaimed or {}, None
        if pid in early:
            ended(early[pid])
        else:
            self._children[pid] = ended
