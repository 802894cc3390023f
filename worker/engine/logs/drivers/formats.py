"""The wire formats of remote log drivers: one log line in, the messages to send out. Pure.

syslog is RFC 3164 (BSD) or RFC 5424; GELF is version 1.1; fluentd is its forward protocol, message mode, in
MessagePack; journald is the native protocol of the journal's socket. A line longer than 16 KiB comes in parts.
"""

from __future__ import annotations

import base64
import gzip
import struct
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from base.clock import NS
from worker.engine.logs.drivers.about import About
from worker.engine.logs.drivers.options import syslog_facility, truth
from worker.engine.logs.jsonfile import PART_BYTES
from worker.engine.logs.reader import LogLine

ERROR, INFO = 3, 6
"""Severities: standard error, standard output."""
GELF_CHUNK_BYTES, GELF_CHUNKS = 1408, 128
_GELF_MAGIC = b"\x1e\x0f"
_msgpack = msgspec.msgpack.Encoder().encode


def _severity(line: LogLine) -> int:
    return ERROR if line.stream == "stderr" else INFO


def is_part(line: LogLine) -> bool:
    """A piece of a longer line that goes on; the text of a container that ended without a newline is none."""
    return not line.data.endswith(b"\n") and len(line.data) > PART_BYTES - 4


class Syslog:
    """One message a line, ended by a newline; empty lines are not sent."""

    def __init__(self, options: Mapping[str, str], about: About) -> None:
        self._facility = syslog_facility(options)
        self._about = about
        self._format = options.get("syslog-format", "")

    def messages(self, line: LogLine) -> list[bytes]:
        text = line.data.removesuffix(b"\n")
        if not text:
            return []
        about, moment = self._about, datetime.fromtimestamp(line.time_ns // NS).astimezone()
        priority = f"<{self._facility * 8 + _severity(line)}>"
        if self._format.startswith("rfc5424"):
            if self._format == "rfc5424micro":
                moment = moment.replace(microsecond=line.time_ns % NS // 1000)
                stamp = moment.isoformat(timespec="microseconds")
            else:
                stamp = moment.isoformat(timespec="seconds")
            stamp = stamp.replace("+00:00", "Z")
            head = f"{priority}1 {stamp} {about.hostname} {about.tag} {about.pid} {about.tag} - "
        else:
            host = f"{about.hostname} " if self._format == "rfc3164" else ""
            head = f"{priority}{moment:%b} {moment.day:2d} {moment:%H:%M:%S} {host}{about.tag}[{about.pid}]: "
        return [head.encode() + text + b"\n"]


class Gelf:
    """One JSON object a line; over UDP compressed and, when it is long, in chunks; over TCP ended by a zero byte."""

    def __init__(self, options: Mapping[str, str], about: About, *, udp: bool) -> None:
        self._udp = udp
        self._kind = options.get("gelf-compression-type", "gzip")
        self._level = int(options.get("gelf-compression-level", "1"))
        self._id = int(about.id[:8] or "0", 16) << 32
        self._sent = 0
        self._host = about.hostname
        self._fields = {
            "_command": about.command,
            "_container_id": about.id,
            "_container_name": about.name,
            "_created": about.created,
            "_image_id": about.image_id,
            "_image_name": about.image,
            "_tag": about.tag,
            **{f"_{name}": value for name, value in about.extra.items()},
        }

    def messages(self, line: LogLine) -> list[bytes]:
        text = line.data.removesuffix(b"\n").decode("utf-8", "replace")
        if not text:
            return []
        whole: dict[str, Any] = {
            "version": "1.1",
            "host": self._host,
            "short_message": text,
            "timestamp": line.time_ns // 1_000_000 / 1000,
            "level": _severity(line),
            **self._fields,
        }
        message = msgspec.json.encode(whole)
        if not self._udp:
            return [message + b"\0"]
        return self._chunks(self._compressed(message))

    def _compressed(self, message: bytes) -> bytes:
        if self._kind == "gzip":
            return gzip.compress(message, self._level, mtime=0)
        return zlib.compress(message, self._level) if self._kind == "zlib" else message

    def _chunks(self, message: bytes) -> list[bytes]:
        """Nothing for a message that is too long for the protocol."""
        if len(message) <= GELF_CHUNK_BYTES:
            return [message]
        pieces = [message[at : at + GELF_CHUNK_BYTES] for at in range(0, len(message), GELF_CHUNK_BYTES)]
        if len(pieces) > GELF_CHUNKS:
            return []
        self._sent = self._sent + 1 & 0xFFFFFFFF
        head = _GELF_MAGIC + struct.pack(">Q", self._id | self._sent)
        return [head + bytes((number, len(pieces))) + piece for number, piece in enumerate(pieces)]


class Fluentd:
    """`[tag, time, record, option]` a line; the option asks for an acknowledgement if that is wanted."""

    def __init__(self, options: Mapping[str, str], about: About) -> None:
        self._about = about
        self._exact = truth(options, "fluentd-sub-second-precision")
        self._acknowledged = truth(options, "fluentd-request-ack")
        self._parts: dict[str, tuple[str, int]] = {}
        """By stream: the id of the line whose parts come, and how many came."""

    def messages(self, line: LogLine) -> list[bytes]:
        about = self._about
        record = {
            "container_id": about.id,
            "container_name": f"/{about.name}",
            "source": line.stream,
            "log": line.data.removesuffix(b"\n").decode("utf-8", "replace"),
            **about.extra,
            **self._part(line),
        }
        option = {"chunk": chunk_name(about.id, line.time_ns)} if self._acknowledged else {}
        return [_msgpack([about.tag, self._time(line.time_ns), record, option])]

    def _time(self, time_ns: int) -> int | msgspec.msgpack.Ext:
        if not self._exact:
            return time_ns // NS
        return msgspec.msgpack.Ext(0, struct.pack(">II", time_ns // NS & 0xFFFFFFFF, time_ns % NS))

    def _part(self, line: LogLine) -> dict[str, str]:
        going_on = is_part(line)
        begun = self._parts.pop(line.stream, None)
        if begun is None and not going_on:
            return {}
        name, number = begun or (f"{self._about.id[:16]}{line.time_ns:016x}", 0)
        if going_on:
            self._parts[line.stream] = (name, number + 1)
        return {
            "partial_message": "true",
            "partial_id": name,
            "partial_ordinal": str(number + 1),
            "partial_last": "false" if going_on else "true",
        }


def chunk_name(container_id: str, time_ns: int) -> str:
    """What the receiver is asked to name when it has a line: in base64, as the protocol wants it."""
    return base64.b64encode(bytes.fromhex(container_id[:16]) + struct.pack(">Q", time_ns)).decode()


class Journald:
    """One datagram a line: `FIELD=value` lines, or with its length before it when the value has newlines."""

    def __init__(self, about: About) -> None:
        self._fields = {
            "CONTAINER_ID": about.id[:12],
            "CONTAINER_ID_FULL": about.id,
            "CONTAINER_NAME": about.name,
            "CONTAINER_TAG": about.tag,
            "IMAGE_NAME": about.image,
            "SYSLOG_IDENTIFIER": about.tag,
            **{_journal_name(name): value for name, value in about.extra.items()},
        }

    def messages(self, line: LogLine) -> list[bytes]:
        fields: dict[str, bytes] = {name: value.encode() for name, value in self._fields.items()}
        fields["PRIORITY"] = str(_severity(line)).encode()
        stamp = datetime.fromtimestamp(line.time_ns // NS, UTC)
        fields["SYSLOG_TIMESTAMP"] = f"{stamp:%Y-%m-%dT%H:%M:%S}.{line.time_ns % NS:09d}Z".encode()
        if is_part(line):
            fields["CONTAINER_PARTIAL_MESSAGE"] = b"true"
        fields["MESSAGE"] = line.data.removesuffix(b"\n")
        return [b"".join(_journal_field(name, value) for name, value in fields.items())]


def _journal_name(name: str) -> str:
    """Capitals, digits and underlines, with no underline first: those are the journal's own."""
    return "".join(char if char.isascii() and char.isalnum() else "_" for char in name.upper()).lstrip("_")


def _journal_field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"
