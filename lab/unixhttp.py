"""HTTP on an engine's unix socket, as it is: for tests and benchmarks, with no SDK and no CLI between."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0


class UnixConnection(http.client.HTTPConnection):
    """One connection, kept as long as the caller wants it."""

    def __init__(self, path: Path, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__("engine", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def value(self) -> Any:
        """Its JSON; None without a body."""
        return json.loads(self.body) if self.body else None

    @property
    def message(self) -> str:
        """The text of an error."""
        return str(self.value["message"])


def ask(
    path: Path,
    method: str,
    target: str,
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """One request on a connection of its own. Raises OSError and http.client.HTTPException."""
    with contextlib.closing(UnixConnection(path, timeout_s)) as connection:
        connection.request(method, target, body, dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
