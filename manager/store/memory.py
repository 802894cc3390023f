"""The state machine behind the log: tables with indexes, changed by whole transactions only.

Pure: `apply` is a function of the state and the transaction, so every manager comes to the same answer, also when the
answer is a refusal. A refused transaction changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from api.types.base import Record
from api.types.objects import Meta, Service, Task
from manager.store.tables import DECODERS, TABLES, StoreObject, Table, encode
from manager.store.transitions import Component, violation


class Action(Record, frozen=True, kw_only=True):
    """Put `data`, or delete when it is None. `base` is the version the writer saw; 0: the object must be new."""

    table: str
    id: str
    base: int
    data: bytes | None = None


class Transaction(Record, frozen=True, kw_only=True):
    """All or nothing. `time` (ns) is the leader's clock; it becomes the objects' stamps."""

    component: str
    time: int
    actions: list[Action]


class Snapshot(Record, frozen=True, kw_only=True):
    index: int
    time: int
    tables: dict[str, list[bytes]]


@dataclass(frozen=True)
class Rejection:
    """Why a transaction changed nothing."""

    reason: str
    """`sequence`: someone else was first; `name`: a name is taken; `transition`: not the writer's to do."""
    message: str


@dataclass(frozen=True)
class Change:
    """One object's change, as watchers see it. `old` None: created; `new` None: deleted."""

    index: int
    table: str
    id: str
    old: Any
    new: Any


class Rows:
    """The objects of one table and their indexes."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.by_id: dict[str, Any] = {}
        self._indexes: dict[str, dict[str, dict[str, None]]] = {name: {} for name in table.indexes}

    def put(self, item: Any) -> None:
        self._unindex(self.by_id.get(item.id))
        self.by_id[item.id] = item
        for name, key_of in self.table.indexes.items():
            key = key_of(item)
            if key is not None:
                self._indexes[name].setdefault(key, {})[item.id] = None

    def delete(self, item_id: str) -> None:
        self._unindex(self.by_id.pop(item_id, None))

    def find(self, index: str, key: str) -> Iterator[Any]:
        return (self.by_id[item_id] for item_id in list(self._indexes[index].get(key, ())))

    def _unindex(self, item: Any) -> None:
        if item is None:
            return
        for name, key_of in self.table.indexes.items():
            key = key_of(item)
            ids = self._indexes[name].get(key) if key is not None else None
            if ids is not None and key is not None:
                ids.pop(item.id, None)
                if not ids:
                    del self._indexes[name][key]


_transaction = msgspec.msgpack.Decoder(Transaction)
_snapshot = msgspec.msgpack.Decoder(Snapshot)


class Memory:
    """All tables at one index."""

    def __init__(self) -> None:
        self.index = 0
        self.time = 0
        """Stamp of the last transaction. It only grows, whatever the leaders' clocks say, so that creation times order
        the tasks of a slot."""
        self.rows = {name: Rows(table) for name, table in TABLES.items()}

    def apply(self, index: int, data: bytes) -> list[Change] | Rejection:
        """Apply one log entry: the changes it made, or why it made none."""
        transaction = _transaction.decode(data)
        self.index = index
        decoded = [(action, self._decoded(action)) for action in transaction.actions]
        rejection = self._judge(Component(transaction.component), decoded)
        if rejection is not None:
            return rejection
        self.time = max(transaction.time, self.time + 1)
        return [self._perform(index, self.time, action, new) for action, new in decoded]

    def snapshot(self) -> bytes:
        """Everything, at the current index."""
        tables = {name: [encode(item) for item in rows.by_id.values()] for name, rows in self.rows.items()}
        return encode(Snapshot(index=self.index, time=self.time, tables=tables))

    def restore(self, index: int, data: bytes) -> None:
        """Replace everything. Tables this build does not know are an error: never drop state silently."""
        snapshot = _snapshot.decode(data)
        unknown = set(snapshot.tables) - set(TABLES)
        if unknown:
            raise ValueError(f"the snapshot has tables of a newer version: {', '.join(sorted(unknown))}")
        rows = {name: Rows(table) for name, table in TABLES.items()}
        for name, items in snapshot.tables.items():
            for item in items:
                rows[name].put(DECODERS[name].decode(item))
        self.rows, self.index, self.time = rows, index, snapshot.time

    @staticmethod
    def _decoded(action: Action) -> StoreObject | None:
        return None if action.data is None else DECODERS[action.table].decode(action.data)

    def _judge(self, component: Component, actions: list[tuple[Action, StoreObject | None]]) -> Rejection | None:
        taken: dict[tuple[str, str], str] = {}
        for action, new in actions:
            rows = self.rows[action.table]
            old = rows.by_id.get(action.id)
            if action.base != (old.meta.version if old is not None else 0):
                return Rejection("sequence", "update out of sequence")
            if isinstance(new, Task) and (why := violation(component, old, new)):
                return Rejection("transition", why)
            if new is not None and rows.table.unique is not None:
                name = rows.table.unique(new)
                holder = taken.setdefault((action.table, name), action.id)
                others = [item.id for item in rows.find("name", name) if item.id != action.id]
                if holder != action.id or others:
                    return Rejection("name", "name conflicts with an existing object")
        return None

    def _perform(self, index: int, time: int, action: Action, new: StoreObject | None) -> Change:
        rows = self.rows[action.table]
        old = rows.by_id.get(action.id)
        if new is None:
            rows.delete(action.id)
            return Change(index, action.table, action.id, old, None)
        created = old.meta.created_at if old is not None else time
        new = msgspec.structs.replace(new, meta=Meta(version=index, created_at=created, updated_at=time))
        if isinstance(new, Service) and template_changed(old, new):
            new = msgspec.structs.replace(new, spec_version=index)
        rows.put(new)
        return Change(index, action.table, action.id, old, new)


def template_changed(old: Service | None, new: Service) -> bool:
    """Whether tasks made from `old` are out of date: the part of a spec that its tasks are made from has changed."""
    return old is None or old.spec.task_template != new.spec.task_template or old.spec.networks != new.spec.networks
