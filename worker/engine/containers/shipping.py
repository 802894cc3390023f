"""Sends the lines of containers whose log driver is a remote one (syslog, gelf, fluentd, journald).

A container never waits for a receiver: its monitor writes the log file, and one task a container sends from it and
keeps on disk how far it came. So lines of a time without daemon, or without receiver, are sent later, each at least
once, as long as the file still has them. One that can't be reached is tried again until the container is removed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec

from api.errors import Internal, InvalidArgument
from base.clock import rfc3339nano
from base.supervise import cancel_and_wait
from worker.engine.containers.kit import Kit
from worker.engine.containers.records import ContainerRecord
from worker.engine.containers.store import Container
from worker.engine.logs.drivers.about import About, chosen
from worker.engine.logs.drivers.connections import Link
from worker.engine.logs.drivers.driver import Driver
from worker.engine.logs.drivers.options import REMOTE
from worker.engine.logs.reader import Cursor, LogLine, LogReader, pause

log = logging.getLogger(__name__)

FINISH_S, UNREACHABLE_S = 10.0, 1.0
"""How long the removal of a container waits for its last lines to be sent: to a receiver that takes lines, as long as
dockerd waits; to one that can't be reached."""


class Shipping:
    """The senders of this daemon."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._shipments: dict[str, tuple[_Shipment, asyncio.Task[None]]] = {}

    async def check(self, record: ContainerRecord) -> None:
        """Before a start: can the receiver be reached? Raises Internal, as dockerd does, if not."""
        if record.host_config.log_config.type not in REMOTE:
            return
        try:
            driver = _driver(record)
            if not driver.may_wait:
                (await driver.connect()).close()
        except InvalidArgument as error:
            raise Internal(f"failed to initialize logging driver: {error.message}") from None
        except OSError as error:
            raise Internal(f"failed to initialize logging driver: {error.strerror or error}") from None

    def begin(self, container: Container) -> None:
        """Send what the log has and what comes, until the container has ended and all is sent. Idempotent."""
        kind = container.record.host_config.log_config.type
        if kind not in REMOTE or container.id in self._shipments:
            return
        try:
            driver = _driver(container.record)
        except InvalidArgument:
            return  # a bad tag: it never started
        shipment = _Shipment(self._kit, container, driver)
        task = self._kit.owner.spawn(self._ship(shipment), name=f"ship {container.id[:12]}")
        self._shipments[container.id] = (shipment, task)

    async def _ship(self, shipment: _Shipment) -> None:
        try:
            while not await shipment.run():
                pass
        finally:
            # No await between the last look at the container and this: a new run begins a new shipment.
            self._shipments.pop(shipment.container.id, None)

    async def finish(self, container_id: str) -> None:
        """Its log is about to go: wait a while for what is not sent yet."""
        found = self._shipments.get(container_id)
        if found is None:
            return
        shipment, task = found
        done, _ = await asyncio.wait([task], timeout=UNREACHABLE_S)
        if not done and shipment.reachable:
            await asyncio.wait([task], timeout=FINISH_S - UNREACHABLE_S)
        if not task.done():
            log.warning("container removed before its log was sent container=%s", container_id[:12])
            await cancel_and_wait(task)


class _Shipment:
    """The sending of one container's lines."""

    def __init__(self, kit: Kit, container: Container, driver: Driver) -> None:
        self._kit = kit
        self.container = container
        self._driver = driver
        self._link: Link | None = None
        self.reachable = True

    async def run(self) -> bool:
        """Until the container has ended and all is sent; then True, or False if it runs again meanwhile."""
        kit, container = self._kit, self.container
        reader = LogReader(kit.layout.log(container.id))
        place = kit.layout.sent(container.id)
        with kit.directories.watch(kit.layout.directory(container.id)) as changed:
            return await self._run(reader, place, changed)

    async def _run(self, reader: LogReader, place: Path, changed: asyncio.Event | None) -> bool:
        kit, container = self._kit, self.container
        try:
            cursor = await kit.disk.run(_load, place)
            if cursor is not None and not await kit.disk.run(reader.resume, cursor):
                log.warning("log rotated before it was sent, lines are lost container=%s", container.id[:12])
            while True:
                # Asked before reading: what was written before the end is then certainly read.
                over = container.run_ended.is_set()
                if changed is not None:
                    changed.clear()
                lines = await kit.disk.run(reader.read)
                if lines:
                    await self._send(lines)
                    await kit.disk.run(_save, place, reader.cursor())
                elif over:
                    return container.run_ended.is_set()
                else:
                    await pause(container.run_ended, changed)
        finally:
            reader.close()
            self._hang_up()

    async def _send(self, lines: Sequence[LogLine]) -> None:
        messages, acks = self._driver.encode(lines)
        while messages:
            try:
                if self._link is None:
                    self._link = await self._driver.connect()
                await self._link.send(messages, acks)
            except OSError as error:
                self._tell(False, error)
                self._hang_up()
                await asyncio.sleep(self._driver.retry_s)
            else:
                self._tell(True)
                return

    def _tell(self, reachable: bool, error: OSError | None = None) -> None:
        if reachable != self.reachable:
            self.reachable = reachable
            words = "log receiver is back" if reachable else "log receiver can't be reached, lines wait"
            log.warning("%s container=%s error=%s", words, self.container.id[:12], error)

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()


def _driver(record: ContainerRecord) -> Driver:
    """Raises InvalidArgument for a tag that is no template."""
    wanted, config = record.host_config.log_config, record.config
    options = wanted.config or {}
    about = About(
        id=record.id,
        name=record.name,
        image=config.image,
        image_id=record.image_id,
        command=" ".join([record.path, *record.args]),
        created=rfc3339nano(record.created_ns),
        hostname=socket.gethostname(),
        pid=os.getpid(),
        extra=chosen(options, config.labels or {}, config.env or []),
    )
    return Driver(wanted.type, options, about)


def _load(path: Path) -> Cursor | None:
    """None when nothing was sent yet; a damaged file (the machine lost power) means that all is sent again."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cursor)
    except (OSError, msgspec.MsgspecError):
        return None


def _save(path: Path, cursor: Cursor | None) -> None:
    if cursor is None:
        return
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(msgspec.json.encode(cursor))
        temporary.rename(path)
    except OSError as error:
        log.warning("how far a log was sent can't be kept, lines may be sent twice file=%s error=%s", path, error)
