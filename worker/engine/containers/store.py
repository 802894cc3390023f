"""All containers of this engine: the live objects, found by id, name or id prefix, each with its durable record.

Invariants: a name belongs to one container or to one creation under way; a record is on disk before it is seen here;
states move along `states.TRANSITIONS` only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from api.errors import Conflict, InvalidArgument, NotFound
from worker.engine.containers.names import random_name
from worker.engine.containers.records import TABLE, ContainerRecord
from worker.engine.containers.states import LIVE, WITH_PROCESS, may_follow
from worker.engine.parts import Process, Stream
from worker.engine.records import Delete, Put, Records

ID_LENGTH = 64


class Container:
    """One container of this daemon. `record` is replaced, never changed."""

    def __init__(self, record: ContainerRecord) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        """Held by start, stop, restart, pause, rename, update and remove; never by readers, nor by the end of a run."""
        self.writing = asyncio.Lock()
        """Held by the store while it writes the record: the end of a run may come at any time, under no other lock."""
        self.process: Process | None = None
        self.settled = asyncio.Event()
        """Clear while the remains of a run are cleaned away."""
        self.settled.set()
        self.removed = asyncio.Event()
        self.run_ended = asyncio.Event()
        """Set when the present run's end has been written down (before a restart, too); a new one each run."""
        self.run_ended.set()
        self.outcome: asyncio.Future[int] | None = None
        """The exit code of this run, or of the last of its restarts: what `wait` waits for."""
        self.pending: list[asyncio.Future[Stream]] = []
        """Attachers that came before the process did."""
        self.restart_task: asyncio.Task[None] | None = None
        self.execs: set[str] = set()
        self.health: Any = None
        """The state of its health check (`health.Watch`), None without one."""

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def live(self) -> bool:
        return self.record.status in LIVE

    @property
    def running(self) -> bool:
        """A process exists (it may be paused)."""
        return self.record.status in WITH_PROCESS

    def replace(self, record: ContainerRecord) -> None:
        """Show a record that is already on disk."""
        self.record = record

    def begin_run(self) -> None:
        """A process is about to run: there is an end to wait for."""
        self.run_ended = asyncio.Event()
        if self.outcome is None or self.outcome.done():
            self.outcome = asyncio.get_running_loop().create_future()

    def finish(self) -> None:
        """No process runs and none is due: whoever waits learns the exit code of the record."""
        if self.outcome is not None and not self.outcome.done():
            self.outcome.set_result(self.record.exit_code)

    def attributes(self, **extra: str) -> dict[str, str]:
        """What its events say of it."""
        config = self.record.config
        return {**(config.labels or {}), "image": config.image, "name": self.record.name, **extra}


class ContainerStore:
    """The table and its indexes. Reading never waits."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._containers: dict[str, Container] = {}
        self._names: dict[str, str] = {}

    async def load(self) -> None:
        """Read the table once, at start."""
        for record in (await self._records.all(TABLE, ContainerRecord)).values():
            self._containers[record.id] = Container(record)
            self._names[record.name] = record.id

    def all(self) -> list[Container]:
        """Newest first."""
        return sorted(self._containers.values(), key=lambda container: container.record.created_ns, reverse=True)

    def get(self, ref: str) -> Container:
        """By id, name, or unique prefix of an id. Raises NotFound; InvalidArgument for an ambiguous prefix."""
        found = self._containers.get(ref) or self._containers.get(self._names.get(ref.removeprefix("/"), ""))
        if found is not None:
            return found
        matches = [id_ for id_ in self._containers if id_.startswith(ref)] if ref else []
        if len(matches) > 1:
            raise InvalidArgument(f"Multiple IDs found with provided prefix: {ref}")
        if not matches:
            raise NotFound(f"No such container: {ref}")
        return self._containers[matches[0]]

    def find(self, ref: str) -> Container | None:
        """Like `get`, None instead of NotFound."""
        try:
            return self.get(ref)
        except NotFound:
            return None

    @contextlib.contextmanager
    def reserve(self, name: str | None, holder: str) -> Iterator[str]:
        """Keep a (checked) name for `holder` while it is being made; None takes a free random one. Raises Conflict."""
        attempt = 0
        chosen = name or random_name()
        while chosen in self._names:
            if name is not None:
                raise Conflict(
                    f'Conflict. The container name "/{name}" is already in use by container "{self._names[name]}". '
                    "You have to remove (or rename) that container to be able to reuse that name."
                )
            attempt += 1
            chosen = random_name(attempt)
        self._names[chosen] = holder
        try:
            yield chosen
        finally:
            kept = self._containers.get(holder)
            if kept is None or kept.record.name != chosen:
                del self._names[chosen]

    async def add(self, record: ContainerRecord) -> Container:
        """Keep a new container; durable on return. Its name is reserved."""
        await self._records.write(Put(TABLE, record.id, record))
        container = self._containers[record.id] = Container(record)
        return container

    async def save(self, container: Container, **changes: Any) -> None:
        """Change fields of its record; on disk before it is seen."""
        await self.change(container, lambda _: changes)

    async def change(self, container: Container, decide: Callable[[ContainerRecord], Mapping[str, Any] | None]) -> bool:
        """Change the fields that `decide` names of the record as it is at that moment.

        Returns:
            False if nothing was written: `decide` answered None, or the container is gone.
        """
        async with container.writing:
            before = container.record
            changes = None if container.removed.is_set() else decide(before)
            if changes is None:
                return False
            after = msgspec.structs.replace(before, **changes)
            assert may_follow(before.status, after.status), f"{before.id}: from {before.status} to {after.status}"
            await self._records.write(Put(TABLE, after.id, after))
            container.replace(after)
            if after.name != before.name:
                self._names.pop(before.name, None)
                self._names[after.name] = after.id
            return True

    async def forget(self, container: Container) -> None:
        """Remove it from the table and the indexes."""
        async with container.writing:
            await self._records.write(Delete(TABLE, container.id))
            self._containers.pop(container.id, None)
            if self._names.get(container.record.name) == container.id:
                del self._names[container.record.name]
            container.removed.set()
