"""How the tests of builds speak to an engine: contexts from memory, the output as messages, a web server in a host."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tarfile
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.lab import Lab
from lab.paths import ROOT
from lab.unixhttp import UnixConnection
from tests.e2e.client import Docker

Files = Mapping[str, str | bytes]
Query = Mapping[str, str | Sequence[str]]


def context(dockerfile: str, files: Files | None = None, *, mode: str = "w") -> bytes:
    """A context archive; `mode` `w:gz` and the like compress it. A name that ends with a slash is a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in {"Dockerfile": dockerfile, **(files or {})}.items():
            raw = data.encode() if isinstance(data, str) else data
            member = tarfile.TarInfo(name.rstrip("/"))
            member.mode = 0o644
            if name.endswith("/"):
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return buffer.getvalue()


@dataclass(frozen=True)
class Built:
    """What a build came to."""

    status: int
    messages: Sequence[Mapping[str, Any]]

    @property
    def text(self) -> str:
        return "".join(str(message.get("stream", "")) for message in self.messages)

    @property
    def error(self) -> str:
        last = self.messages[-1] if self.messages else {}
        return str(last.get("error") or last.get("message") or "")

    @property
    def image(self) -> str:
        """The short id; fails the test if the build did."""
        found = re.search(r"Successfully built ([0-9a-f]{12})\n", self.text)
        assert found is not None, f"{self.status} {self.text} {self.error}"
        return found[1]


def begin(docker: Docker, body: bytes, query: Query, headers: Mapping[str, str]) -> UnixConnection:
    """Send a build; the caller reads or drops the answer."""
    connection = UnixConnection(docker.path)
    text = urllib.parse.urlencode(query, doseq=True)
    sent = {"Content-Type": "application/x-tar", **headers}
    connection.request("POST", f"/v1.24/build?{text}", body, sent)
    return connection


def build(docker: Docker, body: bytes, query: Query | None = None, headers: Mapping[str, str] | None = None) -> Built:
    """Build and read all of the output."""
    connection = begin(docker, body, query or {}, headers or {})
    try:
        answer = connection.getresponse()
        return Built(answer.status, [json.loads(line) for line in answer.read().splitlines()])
    finally:
        connection.close()


def run(docker: Docker, image: str, *command: str) -> str:
    """What a command prints in a container of the image."""
    return docker.ok("run", "--rm", "--entrypoint", "", image, *command)


_WEB_SERVER = """
import functools, http.server, sys, threading
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
handler.log_message = None
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"http://127.0.0.1:{server.server_port}", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def web_server(lab: Lab, host: str, directory: Path) -> Iterator[str]:
    """A web server inside a lab host; its address."""
    with _serving(lab.command(host, [sys.executable, "-I", "-c", _WEB_SERVER, str(directory)])) as address:
        yield address


@contextlib.contextmanager
def basic_registry(lab: Lab, host: str, password: str) -> Iterator[str]:
    """A registry inside a lab host that wants `user` and the password; its `host:port`. It holds `app:v1`."""
    program = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.e2e.basic_registry", password]
    with _serving(lab.command(host, program)) as address:
        yield address


@contextlib.contextmanager
def _serving(argv: list[str]) -> Iterator[str]:
    """A program that prints its address and ends with its input."""
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=null, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert address, "the server ended before it served"
        yield address
        server.stdin.close()
