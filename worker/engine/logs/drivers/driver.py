"""A remote log driver joined from its parts: where it sends, in which form, and how long it waits between tries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from worker.engine.logs.drivers import connections, options
from worker.engine.logs.drivers.about import About, tag
from worker.engine.logs.drivers.formats import Fluentd, Gelf, Journald, Syslog, chunk_name
from worker.engine.logs.reader import LogLine

RETRY_S = 1.0


class Format(Protocol):
    def messages(self, line: LogLine) -> list[bytes]: ...


class Driver:
    """One container's remote driver. `config` has been checked (`options.log_config`).

    Raises InvalidArgument for a tag that is no template.
    """

    def __init__(self, kind: str, config: Mapping[str, str], about: About) -> None:
        about = dataclasses.replace(about, tag=tag(config.get("tag", ""), about))
        self._kind = kind
        self._about = about
        self._acknowledged = False
        self.retry_s = RETRY_S
        """Between two tries to reach the receiver."""
        self.may_wait = False
        """A container may start although the receiver can't be reached yet."""
        self._transport, self._host, self._port = "", "", 0
        self._format: Format
        if kind == "syslog":
            self._transport, self._host, self._port = options.syslog_address(config)
            self._format = Syslog(config, about)
        elif kind == "gelf":
            self._transport, self._host, self._port = options.gelf_address(config)
            self.retry_s = max(float(config.get("gelf-tcp-reconnect-delay", "1")), RETRY_S)
            self._format = Gelf(config, about, udp=self._transport == "udp")
        elif kind == "fluentd":
            self._transport, self._host, self._port = options.fluentd_address(config)
            self._acknowledged = options.truth(config, "fluentd-request-ack")
            self.may_wait = any(options.truth(config, f"fluentd-async{end}") for end in ("", "-connect"))
            self.retry_s = max(options.seconds(config, "fluentd-retry-wait", RETRY_S), 0.1)
            self._format = Fluentd(config, about)
        else:
            self._format = Journald(about)

    async def connect(self) -> connections.Link:
        """Raises OSError with dockerd's words when the receiver can't be reached."""
        if self._kind == "journald":
            return await connections.journal()
        try:
            return await connections.connect(self._transport, self._host, self._port)
        except OSError as error:
            if self._kind != "gelf":
                raise
            words = f"gelf: cannot connect to GELF endpoint: {self._host}:{self._port} {error.strerror}"
            raise OSError(error.errno, words) from error

    def encode(self, lines: Sequence[LogLine]) -> tuple[list[bytes], list[bytes]]:
        """The messages for some lines, and the acknowledgements that must be heard for them."""
        messages = [message for line in lines for message in self._format.messages(line)]
        if not self._acknowledged:
            return messages, []
        return messages, [chunk_name(self._about.id, line.time_ns).encode() for line in lines]
