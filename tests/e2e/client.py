"""How the end-to-end tests speak to an engine: the docker CLI, a terminal around it, and raw HTTP on its socket."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lab.lab import Lab
from lab.paths import base_environment, program
from lab.unixhttp import Answer, ask


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


class Docker:
    """The docker CLI against one engine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def argv(self, *args: str) -> list[str]:
        return [str(program("docker")), "-H", f"unix://{self.path}", *args]

    def run(self, *args: str, stdin: str = "", timeout_s: float = 60) -> Done:
        """Run to the end; never raises for a bad exit status."""
        done = subprocess.run(
            self.argv(*args), input=stdin, capture_output=True, text=True, env=base_environment(), timeout=timeout_s
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, *args: str, stdin: str = "", timeout_s: float = 60) -> str:
        """Run to the end; fails the test unless the exit status is 0. Returns stdout without the last newline."""
        done = self.run(*args, stdin=stdin, timeout_s=timeout_s)
        assert done.code == 0, f"docker {' '.join(args)}: exit {done.code}\n{done.out}{done.err}"
        return done.out.rstrip("\n")

    def bad(self, *args: str) -> Done:
        """Run to the end; fails the test if it succeeds."""
        done = self.run(*args)
        assert done.code != 0, f"docker {' '.join(args)} should have failed:\n{done.out}"
        return done

    def rows(self, *args: str) -> list[dict[str, str]]:
        """The rows of a listing, by `--format {{json .}}`."""
        return [json.loads(line) for line in self.ok(*args, "--format", "{{json .}}").splitlines()]

    def inspect(self, name: str) -> dict[str, Any]:
        """`docker inspect` of one object."""
        (found,) = json.loads(self.ok("inspect", name))
        return dict(found)

    def state(self, name: str) -> dict[str, Any]:
        """`State` of a container."""
        return dict(self.inspect(name)["State"])

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start in the background, for use in a `with` block; stdout and stderr are pipes."""
        return subprocess.Popen(
            self.argv(*args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=base_environment(),
        )

    def terminal(self, *args: str) -> Terminal:
        """Run on a terminal, for use in a `with` block."""
        return Terminal(self.argv(*args))

    def http(self, method: str, path: str, body: bytes | str | dict[str, Any] | None = None, **headers: str) -> Answer:
        """One request as an SDK would send it (JSON unless `body` is bytes or text); no version is added.
        Headers with `_` for `-`."""
        data = json.dumps(body) if isinstance(body, dict) else body
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"Content-Type": "application/json"} if data is not None else {}
        return ask(self.path, method, path, data, sent)


def fetch(lab: Lab, host: str, url: str) -> str:
    """GET by a client inside a lab host; empty when nothing answers. (Debian's static busybox wget crashes.)"""
    script = "import sys, urllib.request as u; o = u.build_opener(u.ProxyHandler({})); "
    script += "sys.stdout.write(o.open(sys.argv[1], timeout=3).read().decode())"
    return lab.run(host, sys.executable, "-I", "-c", script, url).stdout


class Terminal:
    """A program on a pseudo terminal: type into it, wait for what it shows, read its exit status."""

    def __init__(self, argv: list[str]) -> None:
        self._argv = argv
        self.seen = ""

    def __enter__(self) -> Terminal:
        self._master, slave = pty.openpty()
        self.resize(24, 80)
        # A session of its own with the slave as its terminal, so that a resize reaches it as SIGWINCH.
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *self._argv], stdin=slave, stdout=slave, stderr=slave, env=base_environment()
        )
        os.close(slave)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the terminal."""
        import termios

        termios.tcsetwinsize(self._master, (rows, columns))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str, timeout_s: float = 15) -> re.Match[str]:
        """Wait until what is shown from here on matches, and forget it up to there."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = re.search(pattern, self.seen)
            if found:
                self.seen = self.seen[found.end() :]
                return found
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                raise AssertionError(f"never saw {pattern!r}, only {self.seen!r}")

    def wait(self, timeout_s: float = 15) -> int:
        """Exit status, once the program has ended and all it showed is in `seen`."""
        while self._read(timeout_s):
            pass
        return self._process.wait(timeout_s)

    def _read(self, timeout_s: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], timeout_s)
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the other side is closed
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)
