"""The daemon's end of the zygote: starts it, hands it monitor plans, starts a new one should it have died."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from pathlib import Path
from typing import Any

from api.errors import Internal

log = logging.getLogger(__name__)
SCRIPT = Path(__file__).with_name("zygote.py")
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_SEND_TRIES = 200


class ZygoteLink:
    """One zygote process."""

    def __init__(self, runtime: str) -> None:
        """`runtime` is the program that the monitors call."""
        self._runtime = runtime
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self._lock = asyncio.Lock()

    async def fork_monitor(self, plan: dict[str, Any]) -> socket.socket:
        """Fork a monitor for `plan`; the returned socket is its first control connection.

        Raises:
            Internal: no zygote can be started.
        """
        message = json.dumps(plan).encode()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                async with self._lock:
                    for attempt in (1, 2):
                        try:
                            await self._send(message, theirs.fileno())
                            break
                        except (OSError, ConnectionError) as error:
                            if attempt == 2:
                                raise Internal(f"the zygote does not answer: {error}") from error
                            log.warning("zygote is gone, starting another error=%s", error)
                            await self._stop()
            except BaseException:
                ours.close()
                raise
        return ours

    async def _send(self, message: bytes, fd: int) -> None:
        connection = self._socket or await self._start()
        for _ in range(_SEND_TRIES):
            try:
                socket.send_fds(connection, [message], [fd])
                return
            except BlockingIOError:
                await asyncio.sleep(0.005)
        raise ConnectionError("its queue stays full")

    async def start(self) -> None:
        """Start it now, so that the first container does not wait for it."""
        async with self._lock:
            if self._socket is None:
                await self._start()

    async def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-I",
                    "-S",
                    str(SCRIPT),
                    str(theirs.fileno()),
                    self._runtime,
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    env=_ENVIRONMENT,
                    cwd="/",
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._socket = ours
        return ours

    @property
    def pid(self) -> int | None:
        """Of the running zygote."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            await self._process.wait()
            self._process = None

    async def close(self) -> None:
        """Hang up and wait for its end; monitors live on."""
        async with self._lock:
            await self._stop()
