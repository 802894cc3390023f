"""A real shoald for tests of the HTTP API, and a client that speaks it as it is: no SDK, no CLI.

The daemon lives in network, mount and pid namespaces of its own: nothing it does reaches the machine, and all of it
ends with the test.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.unixhttp import Answer, ask
from worker.engine.syscalls.tree import remove_tree

APART = ("unshare", "--net", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc")
BOOT = 'ip link set lo up; exec "$0" -m daemon.main "$@"'
START_S = 20.0


class Api:
    """The API of one daemon."""

    def __init__(self, path: Path, pid: int = 0) -> None:
        self.path = path
        self.pid = pid
        """A process in the daemon's namespaces."""

    def __call__(
        self, method: str, path: str, body: Any = None, /, *, headers: dict[str, str] | None = None, **query: Any
    ) -> Answer:
        """One request at v1.24; `body` is sent as JSON unless it is bytes, query values as their text."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/x-tar" if isinstance(body, bytes) else "application/json"}
        sent = (kind if data is not None else {}) | (headers or {})
        return ask(self.path, method, self.url(path, query), data, sent)

    @staticmethod
    def url(path: str, query: dict[str, Any]) -> str:
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in query.items()}
        return f"/v1.24{path}" + (f"?{urllib.parse.urlencode(texts)}" if texts else "")

    @contextlib.contextmanager
    def taken(self, method: str, path: str, body: Any = None, /, *, head: str = "", **query: Any) -> Iterator[Taken]:
        """A request that takes its connection over; give it the headers of an upgrade if one is wanted."""
        data = json.dumps(body).encode() if body is not None else b""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plain:
            plain.settimeout(20)
            plain.connect(str(self.path))
            text = f"{method} {self.url(path, query)} HTTP/1.1\r\nHost: shoal\r\n{head}"
            if method == "POST":
                text += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
            plain.sendall(text.encode() + b"\r\n" + data)
            connection = Taken(plain)
            try:
                yield connection
            finally:
                connection.close()

    def ok(self, method: str, path: str, body: Any = None, /, **query: Any) -> Any:
        """The JSON of a request that must succeed."""
        answer = self(method, path, body, **query)
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.body!r}"
        return answer.value

    def create(self, name: str = "", /, *cmd: str, host: dict[str, Any] | None = None, **config: Any) -> str:
        """A new container of busybox; its id."""
        body = {"Image": "busybox", "Cmd": list(cmd) or ["sleep", "1000"], "HostConfig": host or {}} | config
        return str(self.ok("POST", "/containers/create", body, **({"name": name} if name else {}))["Id"])

    def run(self, name: str = "", /, *cmd: str, host: dict[str, Any] | None = None, **config: Any) -> str:
        """A started container; its id."""
        container = self.create(name, *cmd, host=host, **config)
        self.ok("POST", f"/containers/{container}/start")
        return container

    def output(self, *cmd: str, host: dict[str, Any] | None = None, **config: Any) -> str:
        """All that a container writes until it ends; the container is removed."""
        container = self.run("", *cmd, host=host, **config)
        try:
            self.ok("POST", f"/containers/{container}/wait")
            frames = self("GET", f"/containers/{container}/logs", stdout=1, stderr=1).body
            return frames.decode() if config.get("Tty") else b"".join(data for _, data in unframed(frames)).decode()
        finally:
            self.ok("DELETE", f"/containers/{container}", force=1, v=1)

    def exec(self, container: str, *cmd: str, **body: Any) -> tuple[int, str]:
        """(exit code, output) of a command in a running container."""
        wish = {"AttachStdout": True, "AttachStderr": True, "Cmd": list(cmd)} | body
        made = self.ok("POST", f"/containers/{container}/exec", wish)["Id"]
        frames = self("POST", f"/exec/{made}/start", {"Detach": False}).body
        code = self.ok("GET", f"/exec/{made}/json")["ExitCode"]
        return code, b"".join(data for _, data in unframed(frames)).decode()

    def inspect(self, ref: str) -> dict[str, Any]:
        return dict(self.ok("GET", f"/containers/{ref}/json"))

    def clear(self) -> None:
        """No containers, no volumes, no networks of anybody's own."""
        for container in self.ok("GET", "/containers/json", all=1):
            self.ok("DELETE", f"/containers/{container['Id']}", force=1, v=1)
        for volume in self.ok("GET", "/volumes")["Volumes"]:
            self.ok("DELETE", f"/volumes/{volume['Name']}")
        for network in self.ok("GET", "/networks", filters={"type": ["custom"]}):
            self.ok("DELETE", f"/networks/{network['Id']}")


class Taken:
    """A connection that was taken over."""

    def __init__(self, plain: socket.socket) -> None:
        self._socket = plain
        self._file = plain.makefile("rb")
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n") and (line := self._file.readline()):
            self.head += line
        self.status = int(self.head.split()[1])

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def read(self, size: int) -> bytes:
        """Exactly that much, less only at the end."""
        return self._file.read(size)

    def rest(self) -> bytes:
        """Everything to the end."""
        return self._file.read()

    def until(self, wanted: bytes) -> bytes:
        """What comes, up to and with `wanted`."""
        seen = b""
        while not seen.endswith(wanted):
            data = self._file.read(1)
            assert data, f"never saw {wanted!r}, only {seen!r}"
            seen += data
        return seen


def unframed(data: bytes) -> list[tuple[int, bytes]]:
    """(stream, data) of each frame."""
    found = []
    while data:
        size = int.from_bytes(data[4:8], "big")
        found.append((data[0], data[8 : 8 + size]))
        data = data[8 + size :]
    return found


@contextlib.contextmanager
def running(*flags: str) -> Iterator[Api]:
    """A daemon with data of its own, for the length of a block."""
    directory = Path(tempfile.mkdtemp(prefix="shoald-"))
    path = directory / "s.sock"
    places = ["--data-root", str(directory / "lib"), "--exec-root", str(directory / "run"), "-H", f"unix://{path}"]
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [*APART, "sh", "-c", BOOT, sys.executable, *places, *flags],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        deadline = time.monotonic() + START_S
        while not _answers(path):
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.05)
        yield Api(path, _child(process.pid))
        assert "Traceback" not in (directory / "log").read_text(), (directory / "log").read_text()[-6000:]
    finally:
        process.kill()
        process.wait()
        _remove(directory)


def _answers(path: Path) -> bool:
    try:
        return Api(path)("GET", "/_ping").body == b"OK"
    except OSError:
        return False


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _remove(directory: Path) -> None:
    """Mounts go with the namespace, a moment after its last process."""
    deadline = time.monotonic() + 10
    while True:
        try:
            remove_tree(directory)  # whatever lies there: also what is too deep for a recursion
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
