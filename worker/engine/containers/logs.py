"""A container's log as clients read it: framed for two streams, raw for a terminal (v1.24 "Get container logs")."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from urllib.parse import quote_plus

from api.errors import NotSupported
from api.types.stream import LogOptions
from api.wire.stdcopy import frame
from base.clock import NS
from worker.engine.containers.kit import Kit
from worker.engine.containers.records import ContainerRecord
from worker.engine.containers.store import Container
from worker.engine.logs.drivers.about import chosen
from worker.engine.logs.drivers.options import readable
from worker.engine.logs.reader import LogLine, read_logs
from worker.engine.parts import STDERR, STDOUT, LogEnd


class Logs:
    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def open(self, ref: str, options: LogOptions) -> AsyncIterator[bytes]:
        """The log as bytes for the wire. Raises NotFound, and NotSupported if the container keeps no log."""
        container = self._kit.store.get(ref)
        if not readable(container.record.host_config.log_config):
            raise NotSupported("configured logging driver does not support reading")
        return self.frames(container, options)

    async def frames(
        self, container: Container, options: LogOptions, *, raw: bool = False, end: LogEnd | None = None
    ) -> AsyncIterator[bytes]:
        """Like `open`; a container without a log gives nothing. `raw` is without frames even without a terminal. `end`:
        no more than was there at that moment, lines that were still being written included."""
        if not readable(container.record.host_config.log_config):
            return
        raw = raw or container.record.config.tty
        lines = read_logs(
            self._kit.layout.log(container.id),
            follow=options.follow and container.live,
            since_ns=options.since_ns,
            until_ns=options.until_ns,
            tail=options.tail,
            streams=[name for name, shown in (("stdout", options.stdout), ("stderr", options.stderr)) if shown],
            ended=container.run_ended,
            pool=self._kit.disk,
            directories=self._kit.directories,
            end=(end.inode, end.size) if end is not None else None,
        )
        details = details_of(container.record) if options.details else ""
        plain = not (options.timestamps or options.details)
        async for some in lines:
            dressed = some if plain else [line._replace(data=_dressed(line, options, details)) for line in some]
            if raw:
                data = b"".join(line.data for line in dressed)
            else:
                data = b"".join(frame(STDERR if line.stream == "stderr" else STDOUT, line.data) for line in dressed)
            if data:
                yield data
        for stream, rest in (end.rests if end is not None else {}).items():
            if rest and (options.stdout if stream == STDOUT else options.stderr):
                yield rest if raw else frame(stream, rest)


def details_of(record: ContainerRecord) -> str:
    """What the log options `labels` and `env` ask to be told with every line: `name=value,...`, by name."""
    options = record.host_config.log_config.config or {}
    shown = chosen(options, record.config.labels or {}, record.config.env or [])
    return ",".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in sorted(shown.items()))


def _dressed(line: LogLine, options: LogOptions, details: str) -> bytes:
    data = line.data
    if options.details:
        data = details.encode() + b" " + data
    if options.timestamps:
        seconds, fraction = divmod(line.time_ns, NS)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        data = f"{stamp}.{fraction:09d}Z ".encode() + data
    return data
