"""`shoald`: from the command line to a running daemon, and out again.

Order matters: the mount namespace is entered before any thread exists, one daemon holds a data root at a time, and
the API listens only when everything behind it is restored.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

from api.errors import Conflict, InvalidArgument, ShoalError
from base import faultpoint, logs
from daemon import config as daemon_config
from daemon.readiness import ServiceManager
from worker.engine.syscalls.mountns import enter_private_mount_namespace

log = logging.getLogger(__name__)
LOCK_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT; SIGHUP reloads its configuration. Returns the process's exit status."""
    if not __debug__:
        print("shoald: refuses to run under python -O: assertions guard its invariants", file=sys.stderr)
        return 2
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in ("backup", "restore", "debug", "ca"):
        return _operate(words)
    try:
        config = daemon_config.load(words)
    except ShoalError as error:
        print(f"shoald: {error.message}", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("shoald: needs to be run as root", file=sys.stderr)
        return 1
    logs.set_up(config.log_level)
    manager = ServiceManager()
    os.umask(0o022)
    try:
        with _sole_owner(config):
            enter_private_mount_namespace(config.exec_root)
            asyncio.run(_serve(config, words, manager))
    except ShoalError as error:
        log.critical("the daemon can't run: %s", error.message)
        return 1
    return 0


def _operate(words: Sequence[str]) -> int:
    """An operator's command; no daemon."""
    from daemon import backup, debug, rootca  # late: only these commands need them

    try:
        own = {"debug": debug.main, "ca": rootca.main}.get(words[0])
        print(own(words[1:]) if own is not None else backup.main(words))
    except ShoalError as error:
        print(f"shoald: {error.message}", file=sys.stderr)
        return 1
    return 0


async def _serve(config: daemon_config.Config, words: Sequence[str], manager: ServiceManager) -> None:
    from daemon.daemon import Daemon  # late: these imports start threads, the namespace comes first

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    _watch_children_by_pidfd(loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    daemon = Daemon(config)
    crash_at = _crash_at()

    def reload() -> None:
        try:
            daemon.reload(daemon_config.load(words))
        except ShoalError as error:
            log.error("configuration not reloaded, all stays as it was error=%s", error.message)

    try:
        loop.add_signal_handler(signal.SIGHUP, _nothing)  # one that comes early does not end the daemon
        await daemon.start_up()
        loop.add_signal_handler(signal.SIGHUP, reload)
        faultpoint.arm(crash_at)
        log.info("daemon ready data_root=%s", config.data_root)
        manager.tell("READY=1")
        await daemon.run(stop)
        manager.tell("STOPPING=1")
    finally:
        await daemon.close()
        log.info("daemon ended; containers keep running")


def _crash_at() -> str:
    """Where this daemon is to kill itself, for tests: empty, or a point that there is. Raises InvalidArgument."""
    text = os.environ.get(faultpoint.VARIABLE, "")
    try:
        if text:
            faultpoint.parse(text)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    return text


def _nothing() -> None:
    return None


def _watch_children_by_pidfd(loop: asyncio.AbstractEventLoop) -> None:
    """What Python 3.12 does by itself; before it, a thread would be started for every child."""
    if sys.version_info < (3, 12):
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(loop)
        asyncio.set_child_watcher(watcher)


@contextlib.contextmanager
def _sole_owner(config: daemon_config.Config) -> Iterator[None]:
    """Hold the data root: a second daemon on it is refused. Writes the pid file."""
    config.data_root.mkdir(parents=True, exist_ok=True)
    config.data_root.chmod(0o710)
    config.exec_root.mkdir(parents=True, exist_ok=True, mode=0o711)
    with open(config.data_root / "lock", "a") as lock:
        _take(lock, config)
        if config.pidfile is not None:
            config.pidfile.parent.mkdir(parents=True, exist_ok=True)
            config.pidfile.write_text(f"{os.getpid()}\n")
        try:
            yield
        finally:
            if config.pidfile is not None:
                config.pidfile.unlink(missing_ok=True)


def _take(lock: TextIO, config: daemon_config.Config) -> None:
    """A daemon that was killed holds its lock until the last of its threads has come back from the disk."""
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Conflict(f"another daemon uses the data root {config.data_root}") from None
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
