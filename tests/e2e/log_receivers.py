"""Receivers of log drivers, run inside a lab host: a real rsyslogd, and small ones of GELF and fluentd's protocol.

Each writes what it understood to a file, one JSON object a line. `python log_receivers.py KIND PORT FILE` runs a small
one: `gelf-tcp`, `gelf-udp`, or `fluentd` (which acknowledges when it is asked to).
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lab.lab import Lab
from lab.paths import TOOLS, program, tool_environment
from lab.wait import until

TCP_PORT, UDP_PORT = 5140, 5141
RSYSLOG = """
module(load="imtcp") module(load="imudp") module(load="imuxsock" SysSock.Use="off")
input(type="imtcp" port="{tcp}" address="127.0.0.1") input(type="imudp" port="{udp}" address="127.0.0.1")
input(type="imuxsock" socket="{directory}/log.sock" CreatePath="on" UsePIDFromSystem="off" RateLimit.Interval="0")
template(name="json" type="list" option.jsonf="on") {{
    property(outname="tag" name="syslogtag" format="jsonf")
    property(outname="severity" name="syslogseverity" format="jsonf")
    property(outname="facility" name="syslogfacility-text" format="jsonf")
    property(outname="host" name="hostname" format="jsonf") property(outname="text" name="msg" format="jsonf")
}}
*.* action(type="omfile" file="{directory}/received" template="json" flushOnTXEnd="on" asyncWriting="off")
"""


class Receiver:
    """A receiver that can be killed and started again."""

    def __init__(self, argv: list[str], file: Path, env: dict[str, str]) -> None:
        self._argv, self._env = argv, env
        self.file = file
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = self.file.with_suffix(".log")
        with open(log, "ab") as out:
            self._process = subprocess.Popen(
                self._argv, env=self._env, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def kill(self) -> None:
        """-9, and everything it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def received(self) -> list[dict[str, Any]]:
        """All it understood so far, over its lives; a line that a kill tore is passed over."""
        found = []
        for line in self.file.read_bytes().splitlines() if self.file.exists() else []:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found


@contextlib.contextmanager
def _receiving(receiver: Receiver) -> Iterator[Receiver]:
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.kill()


@contextlib.contextmanager
def rsyslog(lab: Lab, directory: Path) -> Iterator[Receiver]:
    """On TCP_PORT, UDP_PORT and the datagram socket `log.sock` of `directory`."""
    config = directory / "rsyslog.conf"
    config.write_text(RSYSLOG.format(tcp=TCP_PORT, udp=UDP_PORT, directory=directory))
    modules = next((TOOLS / "root/usr/lib").glob("*/rsyslog"))
    argv = [str(program("rsyslogd")), "-n", "-i", "NONE", "-f", str(config), "-M", str(modules)]
    with _receiving(Receiver(lab.command("m1", argv), directory / "received", tool_environment())) as receiver:
        until((directory / "log.sock").exists, timeout_s=10, what="rsyslogd to listen")
        yield receiver


@contextlib.contextmanager
def small(lab: Lab, directory: Path, kind: str, port: int) -> Iterator[Receiver]:
    """One of ours on a port of the host's loopback."""
    file = directory / kind
    argv = lab.command("m1", [sys.executable, __file__, kind, str(port), str(file)])
    root = Path(__file__).resolve().parents[2]
    with _receiving(Receiver(argv, file, dict(os.environ) | {"PYTHONPATH": str(root)})) as receiver:
        until(lambda: "listening" in file.with_suffix(".log").read_text(), timeout_s=10, what=f"{kind} to listen")
        yield receiver


# --- the small ones, inside the host ---------------------------------------------------------------------------------


def main(kind: str, port: int, path: str) -> None:
    with open(path, "a", buffering=1) as out:

        def keep(value: Any) -> None:
            out.write(json.dumps(value) + "\n")

        if kind == "gelf-udp":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
                plain.bind(("127.0.0.1", port))
                print("listening", flush=True)
                _gelf_packets(plain, keep)
        with socket.create_server(("127.0.0.1", port)) as server:
            print("listening", flush=True)
            while True:
                receive = _gelf_stream if kind == "gelf-tcp" else _fluentd
                threading.Thread(target=receive, args=(server.accept()[0], keep), daemon=True).start()


def _gelf_packets(plain: socket.socket, keep: Any) -> None:
    chunks: dict[bytes, dict[int, bytes]] = {}
    while True:
        packet = plain.recv(65536)
        if packet[:2] == b"\x1e\x0f":
            found = chunks.setdefault(packet[2:10], {})
            found[packet[10]] = packet[12:]
            if len(found) < packet[11]:
                continue
            del chunks[packet[2:10]]
            packet = b"".join(found[number] for number in sorted(found))
        keep(json.loads(gzip.decompress(packet)))


def _gelf_stream(connection: socket.socket, keep: Any) -> None:
    rest = b""
    while data := connection.recv(65536):
        *whole, rest = (rest + data).split(b"\0")
        for message in whole:
            keep(json.loads(message))


def _fluentd(connection: socket.socket, keep: Any) -> None:
    buffer = b""
    while data := connection.recv(65536):
        buffer += data
        while 0 < (end := _end(buffer, 0)) <= len(buffer):
            message, buffer = msgspec.msgpack.decode(buffer[:end]), buffer[end:]
            keep(message[2] | {"tag": message[0], "time": message[1]})
            if "chunk" in message[3]:
                connection.sendall(msgspec.msgpack.encode({"ack": message[3]["chunk"]}))


def _end(data: bytes, at: int) -> int:
    """Where the MessagePack value at `at` ends; past the end of `data` if it is not whole. Of the format only what
    fluentd's messages have."""
    if at >= len(data):
        return len(data) + 1
    kind = data[at]
    inside = 0
    if 0x80 <= kind <= 0x9F:
        inside, end = (kind & 0xF) * (2 if kind < 0x90 else 1), at + 1
    elif 0xA0 <= kind <= 0xBF:
        end = at + 1 + (kind & 0x1F)
    elif kind in (0xD9, 0xDA, 0xDB):
        size = 1 << (kind - 0xD9)
        end = at + 1 + size + int.from_bytes(data[at + 1 : at + 1 + size], "big")
    elif kind == 0xDE:
        inside, end = 2 * int.from_bytes(data[at + 1 : at + 3], "big"), at + 3
    elif kind in (0xCC, 0xCD, 0xCE, 0xCF):
        end = at + 1 + (1 << (kind - 0xCC))
    else:
        end = at + {0xD2: 5, 0xD7: 10}.get(kind, 1)
    for _ in range(inside):
        end = _end(data, end)
    return end


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
